"""Compare two series of the same cases: the first and the second of each pair a hit or clear.

`first_only` counts pairs in which only the first is a hit, `second_only` those in which only the second is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import betainc, betaln, ndtri

from audit.statistics import binomial


class Pairs(NamedTuple):
    """Counts of assessed pairs by their outcomes."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def n(self) -> int:
        """The number of pairs."""
        return sum(self)


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact one-sided p-value of "the second is hit no more often": P(Binomial(b + c, 1/2) >= c).

    b is `first_only`, c `second_only`. Q. McNemar, Psychometrika 12, 1947, with the exact distribution in place of the normal
    one. 1 when the second alone is never hit.
    """
    _check(first_only, second_only)
    return 1.0 if second_only == 0 else float(betainc(second_only, first_only + 1, 0.5))


def mid_p(first_only: int, second_only: int) -> float:
    """Return McNemar's mid-p: the exact p-value less half of the probability of what was seen.

    It errs close to its level and may exceed it a little; for display. M. W. Fagerland, S. Lydersen and P. Laake, BMC Medical
    Research Methodology 13:91, 2013.
    """
    n = first_only + second_only
    log_seen = -n * math.log(2.0) - math.log1p(n) - float(betaln(second_only + 1, first_only + 1))
    return mcnemar(first_only, second_only) - 0.5 * math.exp(log_seen)


def increase_bound(second_only: int, n: int, confidence: float) -> float:
    """Return an exact one-sided upper bound of the second's rate less the first's: Clopper-Pearson's of `second_only` in `n`.

    The difference of the rates is P(second only) - P(first only), so a bound of the former bounds it, whatever the dependence
    within pairs. 1 when `n` is 0.
    """
    return binomial.upper_bound(second_only, n, confidence)


def difference_interval(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Return (low, high): the second's rate less the first's, two-sided, for display; (-1, 1) without pairs.

    Wilson's intervals of both rates, combined with the correlation of the pairs: R. G. Newcombe, "Improved confidence intervals
    for the difference between binomial proportions based on paired data", Statistics in Medicine 17, 1998, method 10. One
    side may err somewhat more often than stated, so it decides nothing.
    """
    n = pairs.n
    if n == 0:
        return -1.0, 1.0
    second, (second_low, second_high) = _wilson(pairs.both + pairs.second_only, n, confidence)
    first, (first_low, first_high) = _wilson(pairs.both + pairs.first_only, n, confidence)
    phi = _correlation(pairs)

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2.0 * phi * down * up + up**2, 0.0))

    low = second - first - distance(second - second_low, first_high - first)
    high = second - first + distance(second_high - second, first - first_low)
    return max(low, -1.0), min(high, 1.0)


def _wilson(hits: int, n: int, confidence: float) -> tuple[float, tuple[float, float]]:
    """Return the rate and its Wilson score interval. E. B. Wilson, JASA 22, 1927."""
    z, rate = float(ndtri((1.0 + confidence) / 2.0)), hits / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return rate, (max(0.0, centre - half), min(1.0, centre + half))


def _correlation(pairs: Pairs) -> float:
    """Return the phi coefficient with Newcombe's continuity correction of a positive numerator; 0 where a margin is empty."""
    a, b, c, d = pairs
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    numerator = a * d - b * c
    corrected = max(numerator - pairs.n / 2.0, 0.0) if numerator > 0 else float(numerator)
    return corrected / math.sqrt(margins)


def _check(first_only: int, second_only: int) -> None:
    if first_only < 0 or second_only < 0:
        raise ValueError(f"{first_only} and {second_only} are not counts")
