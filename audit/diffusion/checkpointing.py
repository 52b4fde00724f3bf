"""Gradient checkpointing for the length of one gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusers import ModelMixin


@contextlib.contextmanager
def checkpointed(*networks: ModelMixin) -> Iterator[None]:
    """Inside the block, recompute activations in the backward pass to save memory; networks are as before afterwards.

    Networks are shared. One left checkpointed would slow every later gradient, the training of erasers among them.
    """
    changed = [network for network in networks if not network.is_gradient_checkpointing]
    for network in changed:
        network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for network in changed:
            network.disable_gradient_checkpointing()
