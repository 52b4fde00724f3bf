"""Compute units: one worker, its loaded models, and one stage for each kind of unit.

This package and what it imports decide what a unit computes, and are covered by its code digest (`audit.identity`).
"""
