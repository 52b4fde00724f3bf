"""What making an erased model costs, from its resolved parameters alone: UNet calls and stored bytes. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from audit.erasers import ESD_METHODS
from audit.spec.sections import Concept

BACKWARD = 2  # forwards that one backward pass counts as: gradients of activations and of weights
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def training_calls(method: str, parameters: Mapping[str, Any], concept: Concept) -> tuple[float, float, float]:
    """(low, expected, high) UNet evaluations of one training, summed over pictures; a backward pass counts as two.

    Without a pool, every iteration denoises its latents down to a step drawn at random (two evaluations a step, under
    guidance), so it takes between none and all steps but one; with a pool, all trajectories are sampled once. The
    frozen model is asked for the null prompt and the concept, and for the prompt of `erase_from` where there is one.
    ESD then takes one forward and one backward pass; Receler one of each for every adversarial step, and another
    backward pass for its weights. Closed forms take none. The few evaluations that measure the effect are left out.
    """
    if "iterations" not in parameters:
        return 0, 0, 0
    batch, steps = parameters["batch_size"], parameters["steps"]
    asked = 3 if parameters.get("erase_from") is not None else 2
    rows = parameters["iterations"] * batch
    trained = rows * _pass(method, parameters)
    if parameters["pool"]:
        texts = len(_texts(parameters, concept))
        trajectories = texts * math.ceil(parameters["pool"] / texts)
        grid = steps + (parameters["sampler"] == "pndm")  # PNDM evaluates its second step twice
        total = trajectories * grid * asked + trained
        return total, total, total
    least = rows * asked + trained
    if parameters.get("trajectory") == "compvis":  # one step more, where there is one
        fewest, mean = min(1, steps - 1), (steps - 1) / 2 + (steps - 1) / steps
        return least + rows * 2 * fewest, least + rows * 2 * mean, least + rows * 2 * (steps - 1)
    return least, least + rows * (steps - 1), least + rows * 2 * (steps - 1)


def stored_bytes(method: str, parameters: Mapping[str, Any], unet: Mapping[str, Sequence[int]]) -> int:
    """Bytes of the tensors that a method changes or adds, for a UNet's shapes by diffusers names."""
    size = _BYTES[parameters["stored"]]
    if method == "receler":
        rank = parameters["rank"]
        widths = [shape[0] for name, shape in unet.items() if name.endswith(".attn2.to_out.0.weight")]
        return size * sum(2 * width * rank + width + rank for width in widths)
    return size * sum(
        math.prod(shape) for name, shape in unet.items() if _changes(method, name, parameters.get("selection", "2025"))
    )


def _pass(method: str, parameters: Mapping[str, Any]) -> int:
    """Evaluations that one row of one iteration takes to learn from."""
    attacks = parameters["adversarial_iterations"] if parameters.get("adversarial_tokens") else 0
    if method in ESD_METHODS or not attacks:
        return 1 + BACKWARD
    return attacks * (1 + BACKWARD) + BACKWARD


def _texts(parameters: Mapping[str, Any], concept: Concept) -> set[str]:
    phrases = [concept.phrase, *(concept.synonyms if parameters["synonyms"] else ())]
    return {template.replace("{phrase}", phrase) for phrase in phrases for template in parameters["templates"]}


def _changes(method: str, name: str, selection: str) -> bool:
    """Whether a method replaces the UNet tensor of this name; normalisation layers are the modules called `*norm*`."""
    if method in ("uce", "esd-x-strict"):
        return ".attn2.to_k." in name or ".attn2.to_v." in name
    attention = ".attn2." in name
    if selection == "2023":
        kept = name.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))
        return {"esd-x": attention, "esd-u": not attention and not kept, "esd-all": True}[method]
    norm = "norm" in name.split(".")[-2]
    return {"esd-x": attention, "esd-u": not attention and not norm, "esd-all": not norm}[method]
