"""Erasers: backbone and concepts in, an artefact and a record of what changed out. One file per method.

Importing this loads no torch: the plan needs names and parameters before any model is loaded. `produce` computes.
"""

from __future__ import annotations

import difflib

from audit.erasers.method import EraserMethod
from audit.erasers.parameters import Parameters
from audit.errors import SpecError
from audit.methods.parameters import Values
from audit.methods.registry import MethodError, Registry
from audit.spec.sections import Eraser

ERASERS = Registry("erasers", "eraser", EraserMethod, Parameters)


def find(method: str) -> EraserMethod:
    """Return the method of this name; raises `SpecError` that says what may have been meant."""
    try:
        return ERASERS.find(method, "defences")
    except KeyError:
        names, lowered = ERASERS.names(), method.lower().replace("_", "-")
        close = difflib.get_close_matches(lowered, names, 1)
        meant = lowered if lowered in names else _called().get(lowered) or (close[0] if close else None)
        raise SpecError(
            f"eraser method {method!r} is not known here" + (f"; did you mean {meant}?" if meant else ""),
            where="defences",
            next_step=f"use one of: {', '.join(names)}",
        ) from None


def check_method(method: str) -> None:
    """Return when `method` is known and can be used; raises `SpecError` otherwise."""
    find(method)


def check_phrase(method: str, phrase: str, where: str) -> None:
    """Return when a method's file can hold a concept's phrase; raises `SpecError` with `where` otherwise."""
    separator = find(method).separator
    if separator and separator in phrase:
        raise SpecError(
            f"{method}'s file separates its concepts by {separator!r}, so that the phrase {phrase!r} cannot hold one",
            where=where,
            next_step=f"write the phrase without {separator!r}",
        )


def default_preset(method: str, backbone: str) -> str | None:
    """Return the preset of a method where a spec names none: `testbed` on the testbed, if the method has it, else its default."""
    on_testbed = backbone == "testbed" or backbone.startswith("testbed/")
    return "testbed" if on_testbed and "testbed" in find(method).presets else find(method).default


def resolve_parameters(eraser: Eraser, backbone: str) -> Values:
    """Return all parameters of a method, defaults and preset filled in. Raises `SpecError` for a name that it does not have.

    `backbone` is its name as the user wrote it, which decides the preset where none is named.
    """
    preset = eraser.preset or default_preset(eraser.method, backbone)
    return find(eraser.method).resolve(preset, eraser.parameters)


def presets(method: str) -> tuple[str, ...]:
    """Return the names of a method's presets."""
    return tuple(find(method).presets)


def oddity(method: str, preset: str | None) -> str | None:
    """Return a line on what the official code that `preset` reproduces does unlike its paper; None where there is nothing."""
    return find(method).oddities.get(preset) if preset is not None else None


def _called() -> dict[str, str]:
    """Return name -> method for the names that people call methods by."""
    called = {}
    for name in ERASERS.names():
        try:
            called.update(dict.fromkeys(ERASERS.find(name, "defences").called, name))
        except MethodError:
            continue  # a broken plug-in is no hint
    return called
