"""The pipeline, the one denoising loop, inversion, attention, text, and what a guard may touch."""
