"""Decide a run: from rates, controls and a policy to a verdict. Reads no model, no storage and no clock."""
