"""Build guards from their resolved parameters and the models of one worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from audit.diffusion.denoisers import Denoiser
from audit.diffusion.guard import Guard
from audit.diffusion.pipeline import Pipeline
from audit.errors import SpecError
from audit.guards import GUARDS
from audit.methods.parameters import Values
from audit.weights.references import ModelRef

Encode = Callable[[list[str]], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The models and text encoders that a guard may use.

    `standard` is the un-erased backbone and `standard_unet` its UNet in the dtype in use; `guarded` and `guarded_unet`
    belong to the model that is protected. `encode` reads text as that model does, `encode_standard` as the backbone.
    `model` finds the model with a digest among those that the guards name (`Parameters.models`).
    """

    standard: Pipeline
    standard_unet: Callable[[], Denoiser]
    guarded: Pipeline
    guarded_unet: Callable[[], Denoiser]
    encode: Encode
    encode_standard: Encode
    model: Callable[[str], ModelRef]


def build(described: Values, parts: Parts) -> Guard:
    """Return a new guard as `audit.guards.resolve` described it. Raises KeyError for an unknown name."""
    guard = GUARDS.find(described["name"], "defences").function()(described["parameters"], parts)
    if not isinstance(guard, Guard):
        raise SpecError(
            f"guard {described['name']} cannot be used: its function returns a value of type {type(guard).__name__}, "
            "and a Guard is needed",
            where="defences",
            next_step="mend the plug-in that brings it; erasure-audit methods names it",
        )
    return guard
