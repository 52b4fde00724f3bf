"""What a spec may say: its sections, the rules between them, the gate's policy. Nothing here opens a file of a model."""
