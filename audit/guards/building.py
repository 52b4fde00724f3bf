"""Guards from their resolved parameters and the models of one worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from audit.diffusion.guard import Guard
from audit.diffusion.pipeline import Pipeline
from audit.errors import SpecError
from audit.guards import GUARDS
from audit.weights.references import ModelRef

Encode = Callable[[list[str]], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What guards are made of.

    `standard` is the un-erased backbone and `standard_unet` its UNet in the dtype in use; `guarded` and `guarded_unet`
    belong to the model that is protected. `encode` reads text as that model does, `encode_standard` as the backbone.
    `model` finds the model with a digest among those that the guards name (`Parameters.models`).
    """

    standard: Pipeline
    standard_unet: Callable[[], UNet2DConditionModel]
    guarded: Pipeline
    guarded_unet: Callable[[], UNet2DConditionModel]
    encode: Encode
    encode_standard: Encode
    model: Callable[[str], ModelRef]


def build(described: Mapping[str, Any], parts: Parts) -> Guard:
    """One fresh guard; `described` is what `audit.guards.resolve` returned. Raises KeyError for an unknown name."""
    made = GUARDS.find(described["name"], "defences").function()(described["parameters"], parts)
    if not isinstance(made, Guard):
        raise SpecError(
            f"guard {described['name']} cannot be used: its function returns a value of type {type(made).__name__}, "
            "and a Guard is needed",
            where="defences",
            next_step="mend the plug-in that brings it; erasure-audit methods names it",
        )
    return made
