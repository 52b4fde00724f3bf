"""Evidence: what a verdict stands on as one folder, signed, that verifies without a GPU, a network, pixels or the journal."""
