"""Erasers: backbone and concepts in, an artefact and a record of what changed out. One file per method.

Importing this loads no torch: the plan needs names and parameters before any model is loaded. `produce` computes.
"""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

from audit.errors import SpecError
from audit.spec.sections import Eraser

ESD_METHODS = ("esd-x", "esd-u", "esd-x-strict", "esd-all")
METHODS = (*ESD_METHODS, "uce", "receler")

# What papers, READMEs and older codes call them. In the official code of 2025 most of these select no parameter at all
# and train nothing, without an error.
_MEANT = {
    "esd": "esd-x",
    "esdx": "esd-x",
    "xattn": "esd-x",
    "esd-xattn": "esd-x",
    "noxattn": "esd-u",
    "esdu": "esd-u",
    "esd-noxattn": "esd-u",
    "esd-a": "esd-all",
    "esdall": "esd-all",
    "full": "esd-all",
    "xattn-strict": "esd-x-strict",
    "esdxstrict": "esd-x-strict",
}


def check_method(method: str) -> None:
    """Return when `method` is known; raises `SpecError` that says what may have been meant."""
    if method in METHODS:
        return
    lowered = method.lower().replace("_", "-")
    close = difflib.get_close_matches(lowered, METHODS, 1)
    meant = lowered if lowered in METHODS else _MEANT.get(lowered) or (close[0] if close else None)
    raise SpecError(
        f"eraser method {method!r} is not known here" + (f"; did you mean {meant}?" if meant else ""),
        where="defences",
        next_step=f"use one of: {', '.join(METHODS)}",
    )


def default_preset(method: str, backbone: str) -> str:
    """The preset that is meant when none is named: the testbed has its own, every other backbone the method's default."""
    on_testbed = backbone == "testbed" or backbone.startswith("testbed/")
    return "testbed" if on_testbed else str(_parameters(method).DEFAULT)


def resolve_parameters(eraser: Eraser, backbone: str) -> dict[str, Any]:
    """All parameters of a method with its defaults and preset filled in; raises `SpecError` for unknown names.

    `backbone` is its name as the user wrote it, which decides the preset where none is named.
    """
    check_method(eraser.method)
    preset = eraser.preset or default_preset(eraser.method, backbone)
    resolved: dict[str, Any] = _parameters(eraser.method).resolve(preset, eraser.parameters, eraser.method)
    return resolved


def presets(method: str) -> tuple[str, ...]:
    """The names of a method's presets."""
    return tuple(_parameters(method).PRESETS)


def oddity(method: str, preset: str) -> str | None:
    """One line on what the official code that `preset` reproduces does unlike its paper; None where there is nothing."""
    odd: str | None = _parameters(method).ODDITIES.get(preset)
    return odd


def _parameters(method: str) -> ModuleType:
    """The module that holds a known method's parameters and presets."""
    from audit.erasers import esd_parameters, receler_parameters, uce_parameters

    if method in ESD_METHODS:
        return esd_parameters
    return uce_parameters if method == "uce" else receler_parameters
