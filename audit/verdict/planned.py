"""Say before a run how likely a good model is to pass all of its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.spec.policy import Policy
from audit.statistics import first_count, power
from audit.verdict.bounds import Bounds, alpha

WANTED = 0.9  # chance for which a number of cases is told


@dataclasses.dataclass(frozen=True)
class RunPower:
    """The chance that a model passes every cell by every judge, where each case is a hit with probability `rate`.

    Cells are independent, for they have other seeds. Judges of the same pictures lie between two extremes.
    """

    rate: float
    cells: int
    judges: int
    agreeing: float  # where all judges always say the same
    independent: float  # where each judge's hits are its own
    cases: int | None  # a cell that make it `WANTED`, of judges that agree; None when no practical number does


def zero_hits(policy: Policy, cases: int, limit: float) -> tuple[float, int | None]:
    """Return the rate that zero hits in `cases` prove not to be exceeded, and the fewest cases whose zero hits prove `limit`."""
    bounds = Bounds(alpha(policy, 1), policy.stopping == "anytime")
    return bounds.high(0, cases) if cases else 1.0, first_count(lambda n: bounds.within(0, n, limit), 1)


def cell_chance(policy: Policy, cases: int, limit: float, rate: float) -> float:
    """Return the chance that one cell passes by one judge: raw bounds, every case assessed, the first attempt."""
    bounds = Bounds(alpha(policy, 1), policy.stopping == "anytime")
    return power.cell_power(cases, rate, lambda hits, n: bounds.within(hits, n, limit))


def run_power(policy: Policy, cells: Sequence[tuple[int, float]], rate: float) -> RunPower:
    """Return the chance that a model of true rate `rate` passes all `cells`, given as (planned cases, limit).

    Retention, the picture check, controls and judges' errors come on top, and are not in it.
    """
    chances = {cell: cell_chance(policy, *cell, rate) for cell in set(cells)}
    agreeing = power.joint_power(chances[cell] for cell in cells)
    strictest = min((limit for _, limit in cells), default=1.0)
    bounds = Bounds(alpha(policy, 1), policy.stopping == "anytime")
    cases = None
    if cells and rate < strictest:
        cases = power.cases_for_power(WANTED, len(cells), rate, lambda hits, n: bounds.within(hits, n, strictest))
    return RunPower(rate, len(cells), len(policy.judges), agreeing, agreeing ** len(policy.judges), cases)
