"""Parameters of Receler: the values for Stable Diffusion v1.4, as published and as released. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from audit.erasers.parameters import TrainedParameters, resolve_with


class RecelerParameters(TrainedParameters):
    """Options of Receler. Values are those of the official script (train_receler.py).

    In the released script the adversarial prompt is written into a temporary copy of the prompt's states and never reaches
    the model, so that it trains what `adversarial_tokens: 0` trains here. The script also trains on the CompVis
    checkpoint's raw weights and denoises the training latents with the model in training; here they start from the
    backbone that is audited.
    """

    rank: int = Field(128, ge=1)
    negative_guidance: float = Field(1.0, gt=0)  # eta
    regularisation: float = Field(0.1, ge=0)  # weight of the concept-localised loss
    mask_threshold: float = Field(0.1, gt=0, lt=1)  # of the min-max normalised attention map
    mask_side: int = Field(16, ge=1)  # the attention maps with this many rows and columns locate the concept
    adversarial_iterations: int = Field(50, ge=1)  # inner steps of the adversarial prompt, every iteration
    adversarial_tokens: int = Field(16, ge=0)  # 0 trains without an adversarial prompt
    adversarial_learning_rate: float = Field(0.1, gt=0)
    adversarial_weight_decay: float = Field(0.1, ge=0)
    iterations: int = Field(500, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    latents_from: Literal["frozen", "trained"] = "trained"
    pixels: int | None = Field(512, ge=8)
    jitter: bool = True
    compute: Literal["float32", "bfloat16"] = "float32"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "official": {"adversarial_tokens": 0, "trajectory": "compvis"},
    "testbed": {
        "rank": 16,
        "mask_side": 8,
        "adversarial_iterations": 4,
        "adversarial_tokens": 4,
        "iterations": 200,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "steps": 25,
        "latents_from": "frozen",
        "jitter": False,
        "pixels": None,
        "pool": 24,
        "compute": "bfloat16",
        "stored": "float16",
    },
}
DEFAULT = "paper"
ODDITIES: Mapping[str, str] = {
    "official": "the adversarial prompt never reaches the model, and its latents lie one to two sampling steps below the "
    "timestep that the model is told",
}


def resolve(preset: str | None, parameters: Mapping[str, Any], method: str = "receler") -> dict[str, Any]:
    """Every parameter's value; raises `SpecError` naming the first bad one."""
    return resolve_with(RecelerParameters, PRESETS, method, preset, parameters)
