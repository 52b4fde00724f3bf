"""The cost of making an erased model, from its resolved parameters alone: UNet calls and stored bytes. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from audit.methods.parameters import Values

BACKWARD = 2  # forwards that one backward pass counts as: gradients of activations and of weights
BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


def training_calls(values: Values, concept: Values, row: int) -> tuple[float, float, float]:
    """Return (low, expected, high) UNet evaluations of one training, by rows of the batch; a backward pass counts as two.

    Without a pool, every iteration denoises its latents down to a step drawn at random (two evaluations a step, under
    guidance), so it takes between none and all steps but one; with a pool, all trajectories are sampled once. The
    frozen model predicts for the null prompt and the concept, and for the prompt of `erase_from` where there is one.
    `row` is the number of evaluations that it takes to learn from one row of one iteration. The few evaluations that
    measure the effect are left out.
    """
    batch, steps = values["batch_size"], values["steps"]
    asked = 3 if values.get("erase_from") is not None else 2
    rows = values["iterations"] * batch
    trained = rows * row
    if values["pool"]:
        texts = len(_texts(values, concept))
        trajectories = texts * math.ceil(values["pool"] / texts)
        grid = steps + (values["sampler"] == "pndm")  # PNDM evaluates its second step twice
        total = trajectories * grid * asked + trained
        return total, total, total
    least = rows * asked + trained
    if values.get("trajectory") == "compvis":  # one step more, where there is one
        fewest, mean = min(1, steps - 1), (steps - 1) / 2 + (steps - 1) / steps
        return least + rows * 2 * fewest, least + rows * 2 * mean, least + rows * 2 * (steps - 1)
    return least, least + rows * (steps - 1), least + rows * 2 * (steps - 1)


def picture_calls(values: Values, concept: Values, row: int) -> tuple[float, float, float]:
    """Return (low, expected, high) UNet evaluations of a training on pictures that are made once, two a step under guidance."""
    made = pictures_made(values, concept) * (values["steps"] + (values["sampler"] == "pndm")) * 2
    total = made + values["iterations"] * values["batch_size"] * row
    return total, total, total


def pictures_made(values: Values, concept: Values) -> int:
    """Return the number of training pictures: as many for every prompt, and no fewer than are asked for."""
    texts = len(_texts(values, concept))
    return texts * math.ceil(values["pictures"] / texts)


def tensor_bytes(values: Values, unet: Mapping[str, Sequence[int]], changes: Callable[[str], bool]) -> int:
    """Return the bytes of the UNet tensors that a method `changes`, by names and shapes, in the dtype that it stores."""
    return BYTES[values["stored"]] * sum(math.prod(shape) for name, shape in unet.items() if changes(name))


def _texts(values: Values, concept: Values) -> set[str]:
    phrases = [concept["phrase"], *(concept["synonyms"] if values["synonyms"] else ())]
    return {template.replace("{phrase}", phrase) for phrase in phrases for template in values["templates"]}
