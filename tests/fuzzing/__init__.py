"""Fuzzing of every place where bytes from outside are read; see `harness`."""
