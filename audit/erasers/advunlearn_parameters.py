"""Parameters of AdvUnlearn: the official values, and the testbed's preset. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from audit.erasers.costs import BACKWARD, BYTES, training_calls
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import TrainedParameters
from audit.methods.parameters import Values

_CLIP_L = 123_060_480  # parameters of Stable Diffusion 1.x's text encoder, which reads into 768 numbers


class AdvUnlearnParameters(TrainedParameters):
    """Options of AdvUnlearn. Values are those of the official script (AdvUnlearn.py) with its README's commands.

    Its lists of prompts to retain, made from COCO's and ImageNet's classes, are not shipped: the concepts' neighbours and
    what `retain` names are retained, in their own words and in `retain_templates`, and always the null prompt.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    component: Literal["text-encoder"] = "text-encoder"
    "The trained part: every layer of the text encoder, without its token and position embeddings."
    negative_guidance: float = Field(1.0, gt=0)
    "Strength of the guidance away from the concept (eta)."
    retain: tuple[str, ...] = ()
    "Further phrases to retain, beside the concepts' neighbours."
    retain_templates: tuple[str, ...] = ("a photo of a {phrase}",)
    "Prompts that are retained; `{phrase}` stands for the phrase."
    preserve_neighbours: bool = True
    "Retain the concepts' neighbours."
    preserve_scale: float = Field(0.3, ge=0)
    "Weight of the loss on retained prompts (retain_loss_w)."
    retain_batch: int = Field(5, ge=1)
    "Latents of retained prompts in each iteration."
    adversarial_tokens: int = Field(1, ge=0)
    "Tokens that the attack puts before the prompt; 0 trains without an attack."
    adversarial_iterations: int = Field(30, ge=1)
    "Steps of each attack."
    adversarial_learning_rate: float = Field(1e-3, gt=0)
    "Learning rate of Adam for the attack's tokens."
    adversarial_every: int = Field(1, ge=1)
    "Iterations between two attacks."
    adversarial_init: Literal["latest", "random"] = "latest"
    "Where an attack begins: at the last one's tokens, or at words drawn from the vocabulary."
    attack: Literal["pgd", "fast_at"] = "pgd"
    "Step of an attack: by the gradient, or by its sign alone."
    accumulate: bool = False
    "Add up the gradients of all steps of an attack, as the official code does, which never clears them."
    warm_up: int = Field(200, ge=0)
    "Iterations before the first attack."
    iterations: int = Field(1000, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    pixels: int | None = Field(512, ge=8)
    jitter: bool = True
    compute: Literal["float32", "bfloat16"] = "float32"


PRESETS: Mapping[str, Mapping[str, object]] = {
    "paper": {},
    "official": {"trajectory": "compvis", "accumulate": True},
    "testbed": {
        "preserve_scale": 1.0,
        "retain_batch": 8,
        "adversarial_iterations": 3,
        "adversarial_learning_rate": 0.05,
        "adversarial_every": 4,
        "warm_up": 40,
        "iterations": 120,
        "learning_rate": 3e-4,
        "batch_size": 4,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "steps": 25,
        "jitter": False,
        "pixels": None,
        "pool": 24,
        "compute": "float32",
    },
}
ODDITIES: Mapping[str, str] = {
    "official": "an attack adds up the gradients of all its steps, and its latents lie one to two sampling steps below the "
    "timestep that the model is told",
}


def attacks(values: Values) -> int:
    """Return the number of attacks of one training."""
    return math.ceil(max(0, values["iterations"] - values["warm_up"]) / values["adversarial_every"])


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of every latent that is drawn, and of a forward and a backward pass for each.

    With a pool, the retained prompts have one of the same size.
    """
    rows = values["iterations"] * values["batch_size"]
    steps = attacks(values) * values["adversarial_iterations"] if values["adversarial_tokens"] else 0
    drawn = rows + steps * values["batch_size"] + values["iterations"] * values["retain_batch"]
    factor = 2.0 if values["pool"] else drawn / rows
    low, expected, high = (factor * bound for bound in training_calls({"trajectory": "timestep", **values}, concept, 0))
    trained = drawn * (1 + BACKWARD)
    return low + trained, expected + trained, high + trained


def _stored(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of Stable Diffusion 1.x's text encoder; a UNet's shapes do not say how large another one is."""
    widths = {shape[1] for name, shape in unet.items() if name.endswith(".attn2.to_k.weight")}
    return BYTES[values["stored"]] * _CLIP_L if widths == {768} else 0


METHOD = EraserMethod(
    "advunlearn",
    "1",
    AdvUnlearnParameters,
    "audit.erasers.advunlearn:erase",
    "Zhang et al. 2024, arXiv 2405.15234",
    presets=PRESETS,
    default="paper",
    oddities=ODDITIES,
    called=("adv-unlearn",),
    calls=_calls,
    stored=_stored,
)
