"""Results in, verdict out. No model, no storage, no clock."""
