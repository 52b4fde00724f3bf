"""Resolve a spec into a plan of cells, cases and units, and forecast their cost. No model is loaded."""
