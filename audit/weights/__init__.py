"""Which model files a reference means, and their digests. Nothing here loads a model."""
