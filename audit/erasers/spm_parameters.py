"""Parameters of SPM: the official values, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from audit.erasers.costs import BACKWARD, BYTES, training_calls
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import TrainedParameters
from audit.methods.parameters import Values


class SpmParameters(TrainedParameters):
    """Options of SPM. Values are those of the official script (train_spm.py) and its configurations.

    That script trains with AdamW in eight bits; here its moments are float32.
    """

    rank: int = Field(1, ge=1)
    "Width of the pair on each layer (one-dimensional in the paper)."
    alpha: float = Field(1.0, gt=0)
    "Strength of the pairs: each adds alpha / rank times its product."
    negative_guidance: float = Field(1.0, ge=0)
    "Strength of the guidance away from the concept (guidance_scale)."
    neutral: str = ""
    "The words whose prediction the concept's is guided from; none is the null prompt."
    anchoring: float = Field(1000.0, ge=0)
    "Weight of latent anchoring: the model's predictions for random token states stay the backbone's (la_strength)."
    anchors: int = Field(4, ge=1)
    "Random token states of each iteration (sampling_batch_size)."
    warm_up: int = Field(500, ge=0)
    "Iterations in which the learning rate grows to its value."
    restarts: int = Field(3, ge=1)
    "Cycles of the cosine by which the learning rate falls."
    iterations: int = Field(3000, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    steps: int = Field(30, ge=1, le=1000)
    latents_from: Literal["frozen", "trained"] = "trained"
    pixels: int | None = Field(512, ge=8)
    compute: Literal["float32", "bfloat16"] = "bfloat16"


PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": {},
    "testbed": {
        "rank": 4,
        "alpha": 4.0,
        "anchoring": 10.0,
        "anchors": 4,
        "warm_up": 0,
        "restarts": 1,
        "iterations": 120,
        "learning_rate": 2e-3,
        "batch_size": 4,
        "steps": 25,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "latents_from": "frozen",
        "pixels": None,
        "pool": 24,
        "compute": "float32",
    },
}
ODDITIES: Mapping[str, str] = {
    "official": "every tensor of a pair is multiplied by the closeness of prompt and concept, so that it acts squared",
}


def is_layer(name: str, dimensions: int) -> bool:
    """Return whether a UNet's tensor is the weight of a linear or convolution layer in a transformer, which gets a pair."""
    return ".attentions." in name and name.endswith(".weight") and dimensions >= 2


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of a forward and backward pass for each row, and of the anchors: the backbone's, and the model's."""
    low, expected, high = training_calls(values, concept, 1 + BACKWARD)
    anchors = values["iterations"] * values["anchors"] * (2 + BACKWARD) * (values["anchoring"] > 0)
    return low + anchors, expected + anchors, high + anchors


def _stored(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    rank, numbers = values["rank"], 0
    for name, shape in unet.items():
        if is_layer(name, len(shape)):
            out, into, *kernel = shape
            numbers += rank * (out + into * (kernel[0] * kernel[1] if kernel else 1)) + 1
    return BYTES[values["stored"]] * numbers


METHOD = EraserMethod(
    "spm",
    "1",
    SpmParameters,
    "audit.erasers.spm:erase",
    "Lyu et al. 2024, arXiv 2312.16145",
    presets=PRESETS,
    default="official",
    oddities=ODDITIES,
    words=("neutral",),
    separator=",",
    calls=_calls,
    stored=_stored,
    again=False,  # its layers act by the prompt of each picture, which no training of a second one tells the first
    families=("sd1", "sd2", "sdxl"),
)
