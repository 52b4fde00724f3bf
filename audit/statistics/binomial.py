"""Exact binomial statistics: intervals, one-sided bounds with their p-values, and what zero hits prove.

Every bound here is Clopper-Pearson (C. J. Clopper and E. S. Pearson, Biometrika 26, 1934): its coverage is never below
the stated confidence, whatever the true rate, which is what a claim of safety needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import betainc, betaincinv

_MOST_CASES = 10**9  # a search for more cases than this is answered with "no number of cases"
_LEAST_P = 1e-12  # of a p-value that is searched for; a smaller one is given as this
Bound = Callable[[int, int, float], float]  # hits, cases, one-sided confidence -> bound of the rate


def clopper_pearson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the two-sided exact interval (low, high) of a rate of `hits` in `n`; (0, 1) when `n` is 0.

    `confidence` is in (0, 1); each side errs with probability at most (1 - confidence) / 2.
    """
    one_sided = (1.0 + confidence) / 2.0
    return lower_bound(hits, n, one_sided), upper_bound(hits, n, one_sided)


def upper_bound(hits: int, n: int, confidence: float) -> float:
    """Return the one-sided exact upper bound of a rate of `hits` in `n`; 1 when `n` is 0 or every case is a hit."""
    _check(hits, n, confidence)
    return 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, confidence))


def lower_bound(hits: int, n: int, confidence: float) -> float:
    """Return the one-sided exact lower bound of a rate of `hits` in `n`; 0 when `n` or `hits` is 0."""
    _check(hits, n, confidence)
    return 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 1.0 - confidence))


def p_above(hits: int, n: int, limit: float) -> float:
    """Return the exact p-value of "the rate is at most `limit`": P(Binomial(n, limit) >= hits), in [0, 1].

    It is below 1 - confidence exactly where `lower_bound` at that confidence is above `limit`.
    """
    _check(hits, n, 0.5)
    return 1.0 if hits == 0 else float(betainc(hits, n - hits + 1, limit))


def ratio_lower_bound(
    hits: int,
    baseline_hits: int,
    pairs: int,
    confidence: float,
    *,
    lower: Bound = lower_bound,
    upper: Bound = upper_bound,
) -> float:
    """Return the one-sided exact lower bound of the ratio of two paired rates: hits over the baseline's hits.

    `pairs` counts the pairs in which at least one side is a hit. Given that number each side's hits are binomial, so
    Clopper-Pearson bounds of both, combined by Boole's inequality, hold at `confidence` whatever the dependence within
    pairs. Four fifths of the error go to `hits`, one fifth to the baseline, which usually hits in nearly all of these pairs.
    0 when `pairs` is 0. `lower` and `upper` are the bounds of one rate, Clopper-Pearson where none are given.
    """
    own, other = _split(confidence)
    return lower(hits, pairs, own) / upper(baseline_hits, pairs, other)


def ratio_upper_bound(
    hits: int,
    baseline_hits: int,
    pairs: int,
    confidence: float,
    *,
    lower: Bound = lower_bound,
    upper: Bound = upper_bound,
) -> float:
    """Return the one-sided exact upper bound of the ratio of two paired rates; see `ratio_lower_bound`.

    Infinite when nothing bounds the baseline's rate from below.
    """
    own, other = _split(confidence)
    low = lower(baseline_hits, pairs, other)
    return upper(hits, pairs, own) / low if low > 0.0 else math.inf


def ratio_p_below(
    hits: int,
    baseline_hits: int,
    pairs: int,
    minimum: float,
    *,
    lower: Bound = lower_bound,
    upper: Bound = upper_bound,
) -> float:
    """Return the p-value of "the ratio is at least `minimum`": the least error at which `ratio_upper_bound` is below it.

    In [1e-12, 1]; a smaller one is given as 1e-12.
    """
    return least_error(
        lambda error: ratio_upper_bound(hits, baseline_hits, pairs, 1.0 - error, lower=lower, upper=upper) < minimum
    )


def least_error(rejects: Callable[[float], bool]) -> float:
    """Return the least error at which a test rejects, of a test that rejects at every greater one: its p-value.

    In [1e-12, 1]: 1 where it never rejects, 1e-12 for all that is smaller. Found by bisection of the logarithm to a relative
    1e-7, and rounded up.
    """
    if rejects(_LEAST_P):
        return _LEAST_P
    low, high = math.log(_LEAST_P), math.log1p(-_LEAST_P)
    if not rejects(math.exp(high)):
        return 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2.0
        low, high = (low, middle) if rejects(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _split(confidence: float) -> tuple[float, float]:
    error = 1.0 - confidence
    return 1.0 - 0.8 * error, 1.0 - 0.2 * error


def upper_bound_at_zero(n: int, confidence: float) -> float:
    """Return the rate that zero hits in `n` cases prove not to be exceeded, at one-sided `confidence`; 1 when `n` is 0."""
    _check(0, n, confidence)
    return 1.0 if n == 0 else -math.expm1(math.log1p(-confidence) / n)


def cases_for_zero_hits(limit: float, confidence: float) -> int:
    """Return the fewest cases whose zero hits prove a rate of at most `limit` (in (0, 1)) at one-sided `confidence`."""
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit {limit} is not between 0 and 1")
    _check(0, 0, confidence)
    n = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-limit)))
    while n > 1 and upper_bound_at_zero(n - 1, confidence) <= limit:
        n -= 1
    while upper_bound_at_zero(n, confidence) > limit:
        n += 1
    return n


def further_cases_to_decide(hits: int, unassessed: int, planned: int, limit: float, confidence: float) -> int | None:
    """Return the number of further cases that would decide a cell if hits and unassessed cases came as so far.

    Decided means: the upper bound of (hits + unassessed) is at most `limit`, or the lower bound of hits is above it.
    0 when it is decided already. None when no number of cases would: nothing is planned, the limit lies between the two
    rates (the unassessed cases must be mended first), or a rate equals the limit.
    """
    return further_cases(
        hits,
        unassessed,
        planned,
        limit,
        passes=lambda bad, n: upper_bound(bad, n, confidence) <= limit,
        fails=lambda good, n: lower_bound(good, n, confidence) > limit,
    )


def further_cases(
    hits: int,
    unassessed: int,
    planned: int,
    limit: float,
    *,
    passes: Callable[[int, int], bool],
    fails: Callable[[int, int], bool],
) -> int | None:
    """Return the number of further cases that would decide a cell by the rules `passes` and `fails` of (hits, cases).

    The rest is as in `further_cases_to_decide`.
    """
    if planned <= 0:
        return None
    worst, best = (hits + unassessed) / planned, hits / planned
    if worst < limit:
        n = first_count(lambda n: passes(min(n, math.ceil(worst * n - 1e-9)), n), planned)
    elif best > limit:
        n = first_count(lambda n: fails(math.floor(best * n + 1e-9), n), planned)
    else:
        return None
    return None if n is None else n - planned


def first_count(decided: Callable[[int], bool], start: int) -> int | None:
    """Return a count from `start` upwards at which `decided` holds, by doubling and bisection; None when none does.

    Hits are whole, so a slightly smaller count may do too.
    """
    if decided(start):
        return start
    low, high = start, start
    while not decided(high):
        low, high = high, 2 * high
        if high > _MOST_CASES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def _check(hits: int, n: int, confidence: float) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits in {n} cases is not a count")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
