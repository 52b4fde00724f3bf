"""Check this machine, and say what each finding means and what to do about it."""
