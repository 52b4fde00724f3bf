"""What the cells of a plan can prove, and how likely a model passes them, as `plan` tells it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.plan.document import Draft
    from audit.records import Cell
    from audit.verdict.planned import RunPower

Row = dict[str, object]
MOST_PROOFS = 30  # rows that are shown one by one on a terminal; JSON always has all of them


def _limited(plan: Draft) -> list[tuple[Cell, float]]:
    """Return the target cells that the policy limits, each with its limit."""
    from audit.records import Role
    from audit.verdict.gate import limit_for

    cells = [planned.cell for planned in plan.cells]
    targets = [cell for cell in cells if cell.role is Role.TARGET and cell.control is None]
    limits = [limit_for(plan.spec.gate, cell.concept, cell.defence, cell.scenario) for cell in targets]
    return [(cell, limit.crr_max) for cell, limit in zip(targets, limits, strict=True) if limit is not None]


def proofs_of(plan: Draft, true_rate: float) -> list[Row]:
    """Return, for each limited target cell, what zero hits in its cases prove, against the limit it has to stay under."""
    from audit.verdict.planned import cell_chance, zero_hits

    policy = plan.spec.gate
    rows: list[Row] = []
    for cell, limit in _limited(plan):
        bound, needed = zero_hits(policy, cell.planned, limit)
        rows.append(
            {
                "concept": cell.concept,
                "defence": cell.defence,
                "scenario": cell.scenario,
                "cases": cell.planned,
                "zero hits prove CRR <=": round(bound, 4),
                "limit": limit,
                "can pass": "yes" if bound <= limit else "no" if needed is None else f"no, needs {needed} cases",
                "chance to pass": round(cell_chance(policy, cell.planned, limit, true_rate), 4),
            }
        )
    return rows


def power_of(plan: Draft, true_rate: float) -> RunPower:
    """Return the chance that a model passes all limited cells of defended models."""
    from audit.verdict.planned import run_power

    cells = [(cell.planned, limit) for cell, limit in _limited(plan) if cell.defence != "none"]
    return run_power(plan.spec.gate, cells, true_rate)


def chance_told(power: RunPower) -> str:
    """Return a sentence on how likely a model passes all of its cells, and with how many cases it usually would."""
    from audit.verdict.shares import percent

    chance = percent(power.agreeing, 1)
    if power.judges > 1:
        chance = (
            f"{percent(power.independent, 1)} ({power.judges} judges, each by itself) to {chance} (judges that agree)"
        )
    first = f"A model with that rate in every cell passes all {power.cells} with a chance of {chance}"
    more = (
        f"; with {power.cases:,} cases a cell it would be 90 %"
        if power.cases is not None and power.agreeing < 0.9
        else ""
    )
    return f"{first}{more}. Retention and the picture check come on top."


def summed(proofs: list[Row]) -> list[Row]:
    """Return the proofs of a large plan: cells that differ only in concept and defence as one row with their number."""
    if len(proofs) <= MOST_PROOFS:
        return proofs
    counts: Counter[tuple[tuple[str, object], ...]] = Counter(
        tuple((name, value) for name, value in row.items() if name not in ("concept", "defence")) for row in proofs
    )
    return [{"cells": count, **dict(row)} for row, count in counts.items()]
