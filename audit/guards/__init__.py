"""Inference-time guards: one protocol, composable, in the order the spec lists them."""
