"""The spec of an audit: its sections, the rules between them, and the gate's policy. Opens no file of a model."""
