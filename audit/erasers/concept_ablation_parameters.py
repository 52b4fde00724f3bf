"""Parameters of Concept Ablation: the official values for each kind of concept, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from audit.erasers.costs import BACKWARD, picture_calls, tensor_bytes
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import PictureParameters
from audit.methods.parameters import Values

Group = Literal["cross-attn", "attn", "full-weight"]
GROUPS: Mapping[Group, Callable[[str], bool]] = {
    "cross-attn": lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    "attn": lambda name: any(f".to_{part}." in name for part in ("q", "k", "v", "out")),
    "full-weight": lambda name: True,
}


class ConceptAblationParameters(PictureParameters):
    """Options of Concept Ablation. Values are those of the official script for objects and styles (diffusers/train.py).

    That script asks a language model for two hundred prompts of the anchor, or takes a file of them; here they are the
    templates, filled with the anchor. Its learning rates are those that `--scale_lr` makes of the batch of its two GPUs.
    """

    anchor: str = Field("", max_length=200)
    """What the concept becomes: the words of a broader concept, such as `cat` for `grumpy cat`. None is the null prompt, for
    every template."""
    variant: Literal["model-based", "noise-based"] = "model-based"
    """What the prediction for the concept becomes: the model's own for the anchor, or the noise that lies on the anchor's
    picture."""
    parameter_group: Group = "cross-attn"
    "Trained weights: keys and values of the cross-attention, every attention projection, or all."
    prior_weight: float = Field(0.0, ge=0)
    "Weight of the loss that holds the anchor itself: its noise, predicted for its own prompt."
    detach_first: bool = True
    "Let the loss reach keys and values of every token but the start token."
    weight_decay: float = Field(0.01, ge=0)
    "Weight decay of AdamW."
    iterations: int = Field(100, ge=1)
    learning_rate: float = Field(1.6e-5, gt=0)
    batch_size: int = Field(8, ge=1)
    sampler: Literal["pndm", "ddim"] = "pndm"
    guidance: float = Field(7.5, ge=1)
    pixels: int | None = Field(512, ge=8)


PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": {},
    "official-attention": {
        "parameter_group": "attn",
        "iterations": 400,
        "learning_rate": 6.4e-5,
        "prior_weight": 1.0,
    },
    "official-memorised": {"parameter_group": "full-weight", "iterations": 400, "learning_rate": 4e-6},
    "testbed": {
        "anchor": "shape",
        "iterations": 150,
        "learning_rate": 5e-4,
        "prior_weight": 1.0,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "sampler": "ddim",
        "steps": 20,
        "guidance": 3.0,
        "pixels": None,
        "pictures": 48,
        "compute": "float32",
    },
}


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of a forward and a backward pass for each row, and of the anchor's forward, or both for its prior."""
    row = 1 + BACKWARD + (values["variant"] == "model-based") + (1 + BACKWARD) * (values["prior_weight"] > 0)
    return picture_calls(values, concept, row)


def _stored(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    return tensor_bytes(values, unet, GROUPS[values["parameter_group"]])


METHOD = EraserMethod(
    "concept-ablation",
    "1",
    ConceptAblationParameters,
    "audit.erasers.concept_ablation:erase",
    "Kumari et al. 2023, arXiv 2303.13516",
    presets=PRESETS,
    default="official",
    words=("anchor",),
    called=("ca", "ac", "ablation", "conceptablation"),
    calls=_calls,
    stored=_stored,
    families=("sd1", "sd2", "sdxl"),
)
