"""Prefixes that wrappers put before every name: `module.` (DataParallel), `_orig_mod.` (torch.compile), `unet.`, `model.`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from audit.checkpoints.key_sets import LDM_PREFIX

Value = TypeVar("Value")
_WRAPPERS = ("module.", "_orig_mod.", "unet.", "model.")
_COMPILED = "._orig_mod."  # torch.compile of a part puts its name in the middle


def without_prefixes(tensors: Mapping[str, Value]) -> tuple[Mapping[str, Value], str]:
    """Return the tensors by their names without the common prefix of wrappers, and that prefix.

    Names of latent-diffusion checkpoints, which themselves begin with `model.`, stay.
    """
    removed = ""
    while tensors and not any(name.startswith(LDM_PREFIX) for name in tensors):
        common = next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if common is None:
            break
        removed += common
        tensors = {name.removeprefix(common): tensor for name, tensor in tensors.items()}
    plain = {name.replace(_COMPILED, "."): tensor for name, tensor in tensors.items()}
    if len(plain) == len(tensors) and any(_COMPILED in name for name in tensors):
        return plain, f"{removed}{_COMPILED[1:]}"
    return tensors, removed
