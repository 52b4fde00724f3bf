"""IRECE's mask controls: the audited attack once more, with the guard's noise elsewhere in the picture.

A guard that removes a concept by breaking pictures does so with a random mask of the same area too. The control cells
report this and decide nothing: their role is `control`, so that no limit of a policy applies to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from audit import guards
from audit.plan.builder import Builder
from audit.plan.identities import GenerateIdentity
from audit.plan.inversions import Inversion
from audit.records import Attempt, Cell, Control, ResolvedGuard, Role


def add_with_controls(
    builder: Builder,
    cell: Cell,
    common: GenerateIdentity,
    attempts: Sequence[Attempt],
    inversion: Inversion | None = None,
) -> None:
    """Plan a cell as `Builder.add` does, and after a defended target cell the mask controls that its guards ask for.

    A control has the cell's own cases: the same prompts, seeds, latents and model, and another mask.
    """
    builder.add(cell, common, attempts, inversion)
    if cell.role is not Role.TARGET or cell.control is not None:
        return
    for control, resolved in _controls(builder, cell):
        builder.model(cell.defence, builder.spec.concept(cell.concept))  # so that the model's unit knows this cell too
        beside = dataclasses.replace(cell, role=Role.CONTROL, control=control)
        builder.add(beside, dataclasses.replace(common, guards=resolved), attempts, inversion)


def _controls(builder: Builder, cell: Cell) -> Iterator[tuple[Control, tuple[ResolvedGuard, ...]]]:
    """Yield each control of a cell's defence with the defence's resolved guards, one of which has another mask."""
    listed = guards.sampling(builder.spec.defence(cell.defence).guards)
    concept = builder.spec.concept(cell.concept)
    energies = builder.resolved.energy_digests()
    for position, guard in enumerate(listed):
        for mask in guard.controls:
            elsewhere = guard.model_copy(update={"parameters": {**guard.parameters, "mask": mask}})
            changed = [*listed[:position], elsewhere, *listed[position + 1 :]]
            yield (
                Control(f"mask-{mask}"),
                tuple(ResolvedGuard(**guards.resolve(one, concept, energies)) for one in changed),
            )
