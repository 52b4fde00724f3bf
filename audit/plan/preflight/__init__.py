"""What can be said against a spec's inputs before anything is computed."""
