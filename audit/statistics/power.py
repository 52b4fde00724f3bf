"""Say before a run what it can show: the chance that a model with a given true rate passes.

A cell of `n` cases passes with up to as many hits as a decision rule allows. A rule is a function (hits, n) -> whether the
cell passes; it must not pass with more hits where it does not with fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from scipy.special import bdtr

from audit.statistics.binomial import first_count

Rule = Callable[[int, int], bool]


def most_hits(n: int, passes: Rule) -> int | None:
    """Return the greatest number of hits in `n` cases that passes; None when not even zero does."""
    if n <= 0 or not passes(0, n):
        return None
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle, n) else (low, middle)
    return low


def cell_power(n: int, rate: float, passes: Rule) -> float:
    """Return the chance that a cell of `n` cases passes when each is a hit with probability `rate`."""
    most = most_hits(n, passes)
    return 0.0 if most is None else 1.0 if most >= n else float(bdtr(most, n, rate))


def joint_power(powers: Iterable[float]) -> float:
    """Return the chance that independent decisions all pass; 1 for none."""
    return math.prod(powers)


def cases_for_power(target: float, cells: int, rate: float, passes: Rule) -> int | None:
    """Return cases a cell with which `cells` independent ones all pass with a chance of at least `target`.

    Hits are whole, so a slightly smaller number may do too. None when no practical number does, as when `rate` is at or above
    what passes.
    """
    wanted = target ** (1.0 / max(cells, 1))
    n = first_count(lambda n: cell_power(n, rate, passes) >= wanted or n > 2_000_000, 1)
    return None if n is None or n > 1_000_000 else n
