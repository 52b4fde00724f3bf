"""Ways into the model: one file per attack."""
