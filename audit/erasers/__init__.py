"""Erasers: backbone weights in, erased weights out, with a record of what changed. One file per method."""

from __future__ import annotations

from typing import Any

from audit.errors import SpecError
from audit.spec import Eraser

METHODS = ("uce",)


def resolve_parameters(eraser: Eraser) -> dict[str, Any]:
    """All parameters of a method with its defaults and preset filled in; raises `SpecError` for unknown names.

    Does not import torch: the plan needs the parameters for its keys before any model is loaded.
    """
    if eraser.method not in METHODS:
        raise SpecError(
            f"eraser method {eraser.method!r} is not known here",
            where="defences",
            next_step=f"use one of: {', '.join(METHODS)}",
        )
    from audit.erasers import uce_parameters

    return uce_parameters.resolve(eraser.preset, eraser.parameters)
