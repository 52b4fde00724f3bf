"""Parameters of Receler: the values for Stable Diffusion v1.4, as published and as released. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from audit.erasers.costs import BACKWARD, BYTES, training_calls
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import TrainedParameters
from audit.methods.parameters import Values


class RecelerParameters(TrainedParameters):
    """Options of Receler. Values are those of the official script (train_receler.py).

    In the released script the adversarial prompt is written into a temporary copy of the prompt's states and never reaches
    the model, so that it trains what `adversarial_tokens: 0` trains here. The script also trains on the CompVis
    checkpoint's raw weights and denoises the training latents with the model in training; here they start from the
    backbone that is audited.
    """

    rank: int = Field(128, ge=1)
    "Width of each adapter's bottleneck."
    negative_guidance: float = Field(1.0, gt=0)
    "Strength of the guidance away from the concept (eta)."
    regularisation: float = Field(0.1, ge=0)
    "Weight of the loss that keeps the adapters quiet outside the concept's region."
    mask_threshold: float = Field(0.1, gt=0, lt=1)
    "Least value of the min-max normalised attention map inside the concept's region."
    mask_side: int = Field(16, ge=1)
    "Rows and columns of the attention maps that locate the concept."
    adversarial_iterations: int = Field(50, ge=1)
    "Steps of the adversarial prompt in every iteration."
    adversarial_tokens: int = Field(16, ge=0)
    "Tokens of the adversarial prompt; 0 trains without one."
    adversarial_learning_rate: float = Field(0.1, gt=0)
    "Learning rate of Adam for the adversarial prompt."
    adversarial_weight_decay: float = Field(0.1, ge=0)
    "Weight decay of the adversarial prompt."
    iterations: int = Field(500, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    latents_from: Literal["frozen", "trained"] = "trained"
    pixels: int | None = Field(512, ge=8)
    jitter: bool = True
    compute: Literal["float32", "bfloat16"] = "float32"


PRESETS: Mapping[str, Mapping[str, object]] = {
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
        "compute": "float32",
        "stored": "float16",
    },
}
ODDITIES: Mapping[str, str] = {
    "official": "the adversarial prompt never reaches the model, and its latents lie one to two sampling steps below the "
    "timestep that the model is told",
}


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of a forward and a backward pass for every adversarial step, and a backward pass for the weights."""
    attacks = values["adversarial_iterations"] if values.get("adversarial_tokens") else 0
    return training_calls(values, concept, attacks * (1 + BACKWARD) + BACKWARD if attacks else 1 + BACKWARD)


def _stored(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    rank = values["rank"]
    widths = [shape[0] for name, shape in unet.items() if name.endswith(".attn2.to_out.0.weight")]
    return BYTES[values["stored"]] * sum(2 * width * rank + width + rank for width in widths)


METHOD = EraserMethod(
    "receler",
    "1",
    RecelerParameters,
    "audit.erasers.receler:erase",
    "Huang et al. 2024, arXiv 2311.17717",
    presets=PRESETS,
    default="paper",
    oddities=ODDITIES,
    calls=_calls,
    stored=_stored,
    families=("sd1", "sd2", "sdxl"),
)
