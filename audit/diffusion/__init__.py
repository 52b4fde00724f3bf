"""The diffusion model itself: pipeline, denoising loop, inversion, cross-attention, text, and the protocol of guards."""
