"""The attacks that search for an input before pictures are made, by name. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from audit.attacks.parameters import AttackMethod, Parameters
from audit.errors import SpecError
from audit.methods.parameters import Values, parse_parameters
from audit.methods.registry import Registry

if TYPE_CHECKING:
    from audit.attacks.protocol import Run

ATTACKS = Registry("attacks", "attack", AttackMethod, Parameters)

# Nothing of a common loop is journalled before all of it is learned, and other processes leave its units alone.
MOST_TOGETHER = 4


def parse(name: str, given: Mapping[str, object], preset: str | None = None, where: str = "scenarios") -> Parameters:
    """Return the checked parameters of a method. Raises `SpecError` for an unknown preset or the first bad parameter."""
    method = ATTACKS.find(name, where)
    if preset is not None and preset not in method.presets:
        known = ", ".join(method.presets) or "none"
        raise SpecError(
            f"attack {name} has no preset {preset!r}", where=where, next_step=f"use one of its presets: {known}"
        )
    values = {**(method.presets[preset] if preset else {}), **given}
    return parse_parameters(method.parameters, values, f"attack {name}", where)


def runner(name: str) -> Run:
    """Return a method's code. Raises KeyError for an unknown method."""
    run: Run = ATTACKS.find(name, "scenarios").function()  # type: ignore[assignment]  # the stage checks its answer
    return run


def unet_calls(described: Values) -> float:
    """Return the UNet evaluations of one attack unit, by its identity."""
    parameters = _parameters(described)
    return parameters.unet_calls(len(described["items"]))


def room_for_more(described: Values, batch_size: int) -> int:
    """Return how many further units fit beside this one into one UNet call of `batch_size` rows; 0 where none may."""
    rows = _parameters(described).rows_together()
    return max(0, min(batch_size // rows, MOST_TOGETHER) - 1) if rows else 0


def text_calls(described: Values) -> float:
    """Return the texts that one attack unit, by its identity, puts through the text encoder alone."""
    parameters = _parameters(described)
    return parameters.text_calls(len(described["items"]))


def _parameters(described: Values) -> Parameters:
    return ATTACKS.find(described["method"], "scenarios").parameters.model_validate(described["parameters"])
