"""One module for each kind of unit: erase, attack, invert, generate, detect and quality.

A stage takes a planned unit and the worker's models, and returns the unit's table and, where it has tensors, their bytes.
"""
