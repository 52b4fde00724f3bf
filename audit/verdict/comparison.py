"""Compare two series of the same cases, pair by pair: two defences within a run, or two runs of the same plan.

The first series is the old one, or the weaker defence. Three things are asked of each cell:

* **worse**: is the second hit more often? McNemar's exact test, one-sided, corrected by Holm's rule over all cells;
* **better**: is it hit less often? The same test the other way round, with a correction of its own;
* **held**: is it at most a margin worse? The upper bound of its rate of newly hit cases, which bounds the difference.

Every case counts against the claim: for `worse` and `better` a case that is unassessed on either side speaks for the contrary,
for `held` it is newly hit. A case that only one of the two has planned is one that the other did not assess. So an error makes
no claim easier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from audit.files import Document
from audit.statistics import paired
from audit.statistics.multiplicity import holm

MARGIN = 0.05  # most by which the second may be worse and still be called no worse


@dataclasses.dataclass(frozen=True)
class PairedRow:
    """Outcomes of one cell's cases by one instrument, first and second series; all of them add up to the pairs of the cell."""

    concept: str
    scenario: str
    detector: str
    first: str  # the defence, or the run
    second: str
    hit_both: int
    first_only: int  # hits that became clear
    second_only: int  # clear ones that became hits
    clear_both: int
    hit_unassessed: int  # first series first
    clear_unassessed: int
    unassessed_hit: int
    unassessed_clear: int
    unassessed_unassessed: int
    unpaired: int = 0  # planned on one side alone

    @property
    def pairs(self) -> int:
        """Return the number of cases that either side has planned."""
        return self.hit_both + self.first_only + self.second_only + self.clear_both + self.unassessed

    @property
    def unassessed(self) -> int:
        """Return the number of pairs of which either side is missing."""
        return (
            self.hit_unassessed + self.clear_unassessed + self.unassessed_hit + self.unassessed_clear
            + self.unassessed_unassessed + self.unpaired
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PairedDecision:
    """What one cell's pairs show. Rates are of all pairs; the difference is the second's rate less the first's."""

    row: PairedRow
    p_worse: float
    p_worse_adjusted: float
    p_worse_mid: float  # for display
    p_better: float
    p_better_adjusted: float
    increase_at_most: float  # exact one-sided upper bound of the difference
    difference: float | None  # of assessed pairs; None without any
    difference_low: float  # Newcombe's two-sided interval of assessed pairs, for display
    difference_high: float
    margin: float
    worse: bool
    better: bool
    held: bool  # at most the margin worse

    @property
    def word(self) -> str:
        """Return what is shown, in a word or two: worse | better | no worse | not decided."""
        if self.worse:
            return "worse"
        if self.better:
            return "better"
        return "no worse" if self.held else "not decided"


def built_on(defences: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """Yield (first, second) for the defences of a stored spec that are worth comparing: each with the un-erased model, and each
    with those of the same eraser whose guards are the first ones of its own."""
    described = [(str(d.get("name")), d.get("eraser"), list(d.get("guards") or ())) for d in defences]
    for name, eraser, guards in described:
        if name == "none":
            continue
        yield "none", name
        for other, other_eraser, other_guards in described:
            fewer = len(other_guards) < len(guards) and other_guards == guards[: len(other_guards)]
            if other != "none" and other_eraser == eraser and fewer:
                yield other, name


def compare(rows: Sequence[PairedRow], confidence: float = 0.95, margin: float = MARGIN) -> tuple[PairedDecision, ...]:
    """Return a decision for each row, in order, corrected together: each kind of mistake has 1 - `confidence` over all rows.

    The margin needs no correction where it has to hold in every cell. Raises `ValueError` for a margin outside [0, 1).
    """
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"margin {margin} is not between 0 and 1")
    error = 1.0 - confidence
    worse = [paired.mcnemar(*_against_worse(row)) for row in rows]
    better = [paired.mcnemar(*_against_better(row)) for row in rows]
    return tuple(
        _decision(row, p_worse, worse_adjusted, p_better, better_adjusted, error, margin)
        for row, p_worse, worse_adjusted, p_better, better_adjusted in zip(
            rows, worse, holm(worse), better, holm(better), strict=True
        )
    )


def _decision(
    row: PairedRow,
    p_worse: float,
    worse_adjusted: float,
    p_better: float,
    better_adjusted: float,
    error: float,
    margin: float,
) -> PairedDecision:
    assessed = paired.Pairs(row.hit_both, row.first_only, row.second_only, row.clear_both)
    low, high = paired.difference_interval(assessed, 1.0 - error)
    at_most = paired.increase_bound(_newly_hit(row), row.pairs, 1.0 - error)
    return PairedDecision(
        row=row,
        p_worse=p_worse,
        p_worse_adjusted=worse_adjusted,
        p_worse_mid=paired.mid_p(*_against_worse(row)),
        p_better=p_better,
        p_better_adjusted=better_adjusted,
        increase_at_most=at_most,
        difference=(row.second_only - row.first_only) / assessed.n if assessed.n else None,
        difference_low=low,
        difference_high=high,
        margin=margin,
        worse=worse_adjusted < error,
        better=better_adjusted < error,
        held=at_most <= margin,
    )


def regression(decisions: Sequence[PairedDecision]) -> bool | None:
    """Return True when some cell is worse, False when every cell keeps the margin, and None when neither is shown.

    None for no cells at all.
    """
    if any(decision.worse for decision in decisions):
        return True
    return False if decisions and all(decision.held for decision in decisions) else None


def _against_worse(row: PairedRow) -> tuple[int, int]:
    """Return (became clear, became hits) with every missing outcome told against "the second is worse"."""
    return (
        row.first_only + row.hit_unassessed + row.unassessed_clear + row.unassessed_unassessed + row.unpaired,
        row.second_only,
    )


def _against_better(row: PairedRow) -> tuple[int, int]:
    """Return (became hits, became clear) with every missing outcome told against "the second is better"."""
    return _newly_hit(row), row.first_only


def _newly_hit(row: PairedRow) -> int:
    return (
        row.second_only + row.clear_unassessed + row.unassessed_hit + row.unassessed_unassessed + row.unpaired
    )  # fmt: skip
