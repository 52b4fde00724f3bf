"""The defences that `guards_table` measures, by name: an eraser or none, and guards in order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from audit.spec.sections import Guard
from audit.testbed.captions import SYNONYMS

# What makes the mask specific on calibration scenes, see IreceParameters: named options, never the literal default.
SPECIFIC: Mapping[str, Any] = {
    "localisation": "contrast-neighbours",
    "layers": "up",
    "smooth": 3,
    "tau": 0.5,
    "t_star": 321,
}


@dataclasses.dataclass(frozen=True)
class Defence:
    """One row of the table; `eraser` is the method of a shipped artefact, None for the backbone."""

    name: str
    eraser: str | None
    guards: tuple[Guard, ...]


def guard(name: str, **parameters: Any) -> Guard:
    """A guard as a spec lists it."""
    return Guard(name=name, parameters=parameters)


def describe(guard: Guard) -> str:
    """A guard with its parameters, on one line."""
    return guard.name + (f" {json.dumps(guard.parameters, sort_keys=True)}" if guard.parameters else "")


def defences(concept: str, tuned: Sequence[Guard] = ()) -> list[Defence]:
    """All rows for one concept; `tuned` are guards that `erasure-audit tune` wrote."""
    texts = [f"a photo of a {word}" for word in (concept, SYNONYMS[concept])]
    safree = guard("safree", concepts=texts, mask="a")
    irece, level = guard("irece"), guard("irece", noise="level")
    specific = guard("irece", noise="level", **SPECIFIC)
    # Between the scores that calibration scenes with a ring and without one mostly have.
    gated = guard("irece", noise="level", gate=0.22, **SPECIFIC)
    # Chosen on calibration prompts: the default step is too short for the testbed.
    egloce = guard("egloce", gradient="stop", rho=0.05, trust=0.25)
    rows = [
        Defence("none", None, ()),
        Defence("negative-prompt", None, (guard("negative-prompt"),)),
        Defence("sld medium", None, (guard("sld", preset="medium"),)),
        Defence("sld max", None, (guard("sld", preset="max"),)),
        Defence("safree", None, (safree,)),
        Defence("irece", None, (irece,)),
        Defence("irece, level", None, (level,)),
        Defence("irece, specific", None, (specific,)),
        Defence("irece, specific and gated", None, (gated,)),
        Defence("irece, random mask", None, (guard("irece", mask="random"),)),
        Defence("irece, shifted mask", None, (guard("irece", mask="shifted"),)),
        Defence("irece, full noise", None, (guard("irece", mask="full"),)),
        Defence("egloce, stop-gradient", None, (guard("egloce", gradient="stop"),)),
        Defence("egloce, longer steps", None, (egloce,)),
        Defence("egloce, full gradient", None, (guard("egloce"),)),
        # Leaves alone what the energy model does not take for the concept.
        Defence("egloce, stop-gradient, floor 0.4", None, (guard("egloce", gradient="stop", floor=0.4),)),
        Defence("safree + egloce", None, (safree, egloce)),
    ]
    rows += [Defence(f"irece, tuned {i}", None, (found,)) for i, found in enumerate(tuned, 1)]
    for eraser in ("esd-x", "uce", "receler"):
        rows += [Defence(eraser, eraser, ()), Defence(f"{eraser} + irece", eraser, (irece,))]
        rows += [Defence(f"{eraser} + irece, specific", eraser, (specific,))]
        rows += [Defence(f"{eraser} + egloce", eraser, (egloce,))]
    rows.append(Defence("esd-x + safree + egloce", "esd-x", (safree, egloce)))
    return rows
