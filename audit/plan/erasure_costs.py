"""Forecast the cost of making an erased model from its method's own formulas. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audit.erasers import ERASERS
from audit.methods.parameters import Values
from audit.spec.sections import Concept


def training_calls(method: str, parameters: Values, concept: Concept) -> tuple[float, float, float]:
    """Return (low, expected, high) UNet evaluations of one training, summed over pictures. A backward pass counts as two."""
    return ERASERS.find(method, "defences").calls(parameters, concept.model_dump(mode="json"))


def stored_bytes(method: str, parameters: Values, unet: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of the tensors that a method changes or adds, given a UNet's shapes by diffusers names."""
    return ERASERS.find(method, "defences").stored(parameters, unet)
