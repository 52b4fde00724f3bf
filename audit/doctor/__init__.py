"""Check this machine, and explain each finding and what to do about it."""
