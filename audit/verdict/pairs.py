"""Count pairs of what must survive, a defence's picture and the un-erased model's, and bound the ratio of their rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType

from audit import statistics
from audit.statistics import anytime, binomial
from audit.verdict.bounds import Bounds
from audit.verdict.results import RetentionRow

_MOST_FURTHER = 1_000_000


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Counts over pairs: hits of the defence, of the un-erased model, and pairs in which either shows the subject."""

    defended: int
    backbone: int
    union: int

    def low(self, bounds: Bounds) -> float:
        """Return the one-sided lower bound of the defence's rate over the un-erased model's."""
        own = _of_one_rate(bounds)
        return statistics.ratio_lower_bound(
            self.defended, self.backbone, self.union, 1.0 - bounds.alpha, lower=own.lower_bound, upper=own.upper_bound
        )

    def high(self, bounds: Bounds) -> float:
        """Return the one-sided upper bound; it may exceed 1, and is infinite where nothing bounds it."""
        own = _of_one_rate(bounds)
        return statistics.ratio_upper_bound(
            self.defended, self.backbone, self.union, 1.0 - bounds.alpha, lower=own.lower_bound, upper=own.upper_bound
        )

    def p_below(self, bounds: Bounds, minimum: float) -> float:
        """Return the p-value of "the ratio is at least `minimum`"."""
        own = _of_one_rate(bounds)
        return binomial.ratio_p_below(
            self.defended, self.backbone, self.union, minimum, lower=own.lower_bound, upper=own.upper_bound
        )


def _of_one_rate(bounds: Bounds) -> ModuleType:
    return anytime if bounds.anytime else binomial


def worst(rows: Sequence[RetentionRow]) -> Pairs:
    """Return the counts that speak most against the defence: its unassessed pictures lost, the backbone's shown."""
    kept = sum(r.kept + r.unassessed_hit for r in rows)
    lost = sum(r.lost + r.hit_unassessed + r.unassessed_clear + r.unassessed_unassessed for r in rows)
    gained = sum(r.gained for r in rows)
    return Pairs(kept + gained, kept + lost, kept + lost + gained)


def best(rows: Sequence[RetentionRow]) -> Pairs:
    """Return the counts that speak most for the defence: its unassessed pictures shown, the backbone's not."""
    kept = sum(r.kept + r.hit_unassessed for r in rows)
    lost = sum(r.lost for r in rows)
    gained = sum(r.gained + r.clear_unassessed + r.unassessed_hit + r.unassessed_unassessed for r in rows)
    return Pairs(kept + gained, kept + lost, kept + lost + gained)


def needed(least: Pairs, most: Pairs, pairs: int, minimum: float, bounds: Bounds, strictest: float) -> int | None:
    """Return the pairs that would decide if they came out as in this run; None when no practical number would.

    `strictest` is the error at which a ratio below the minimum fails.
    """
    strict = dataclasses.replace(bounds, alpha=strictest)

    def scaled(counts: Pairs, n: int, up: bool) -> Pairs:
        union = counts.union * n // pairs
        more = -(-counts.defended * n // pairs) if up else counts.defended * n // pairs
        other = counts.backbone * n // pairs if up else -(-counts.backbone * n // pairs)
        return Pairs(min(more, union), min(other, union), union)

    def decided(n: int) -> bool:
        if n > 2 * (pairs + _MOST_FURTHER):
            return True
        return scaled(least, n, False).low(bounds) >= minimum or scaled(most, n, True).high(strict) < minimum

    n = statistics.first_count(decided, pairs)
    return None if n is None or n - pairs > _MOST_FURTHER else n
