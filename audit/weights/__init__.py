"""Find the model files that a reference names, and hash them. Loads no model."""
