"""Spec in, plan out: cells, cases, units, and what they will cost. No model is loaded."""
