"""The testbed: a Stable-Diffusion-shaped pipeline and its judges, trained from scratch on rendered scenes."""
