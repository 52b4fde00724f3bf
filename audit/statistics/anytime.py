"""Bounds of a rate that hold however often, and whenever, one looks: a beta-mixture e-process, and its bounds.

An exact binomial bound errs at its rate when the number of cases was fixed beforehand. Who looks, adds cases and looks again
errs more often: a rate at the limit passes in a quarter of such series instead of in 5 %. An e-process is a bet against the
hypothesis that is fair while it is true, so that it reaches 1 / error with at most that probability at any time (J. Ville,
1939; A. Ramdas, P. Grünwald, V. Vovk and G. Shafer, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38, 2023).

Against "the rate is at least p0" the bet is a likelihood ratio whose alternative is 0 with weight w and uniform below p0 with
weight 1 - w:

    e(h, n) = [w 1{h = 0} + (1 - w) / p0 B(h + 1, n - h + 1) I_p0(h + 1, n - h + 1)] / (p0^h (1 - p0)^(n - h))

Against "the rate is at most p0" the alternative is uniform above p0. Everything is computed as logarithms.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import betainc, betaincc, betaln

WEIGHT = 0.5  # of the alternative 0: zero hits prove a limit with 68 cases where a fixed number needs 59


def log_e_below(hits: int, n: int, limit: float, weight: float = WEIGHT) -> float:
    """Return the logarithm of the e-process against "the rate is at least `limit`" (in (0, 1)) after `n` cases."""
    _check(hits, n, limit)
    null = _log_likelihood(hits, n, limit)
    spread = _log(float(betainc(hits + 1, n - hits + 1, limit))) + float(betaln(hits + 1, n - hits + 1))
    mixed = math.log1p(-weight) - math.log(limit) + spread
    return (_add(mixed, math.log(weight)) if hits == 0 else mixed) - null


def log_e_above(hits: int, n: int, limit: float) -> float:
    """Return the logarithm of the e-process against "the rate is at most `limit`" (in (0, 1)) after `n` cases."""
    _check(hits, n, limit)
    spread = _log(float(betaincc(hits + 1, n - hits + 1, limit))) + float(betaln(hits + 1, n - hits + 1))
    return spread - math.log1p(-limit) - _log_likelihood(hits, n, limit)


def p_above(hits: int, n: int, limit: float) -> float:
    """Return the p-value of "the rate is at most `limit`" that holds at any time: 1 / e, at most 1."""
    return math.exp(-max(0.0, log_e_above(hits, n, limit)))


def upper_bound(hits: int, n: int, confidence: float) -> float:
    """Return the least limit from which on the e-process rejects every one at `confidence`; 1 when every case is a hit.

    Above (hits + 1) / (n + 1) the process grows with the limit; a smaller bound is never given.
    """
    wanted = _wanted(confidence)
    start = (hits + 1.0) / (n + 1.0)
    if hits == n or log_e_below(hits, n, start) >= wanted:
        return min(start, 1.0)
    end = 1.0 - 1e-12
    if log_e_below(hits, n, end) < wanted:
        return 1.0
    return float(brentq(lambda limit: log_e_below(hits, n, limit) - wanted, start, end, xtol=1e-12))


def lower_bound(hits: int, n: int, confidence: float) -> float:
    """Return the greatest limit up to which the e-process rejects every one at `confidence`; 0 without hits."""
    wanted = _wanted(confidence)
    start = hits / (n + 1.0)
    if hits == 0 or log_e_above(hits, n, start) >= wanted:
        return start
    end = 1e-12
    if log_e_above(hits, n, end) < wanted:
        return 0.0
    return float(brentq(lambda limit: wanted - log_e_above(hits, n, limit), end, start, xtol=1e-12))


def _wanted(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return -math.log1p(-confidence)


def _log_likelihood(hits: int, n: int, rate: float) -> float:
    return hits * math.log(rate) + (n - hits) * math.log1p(-rate)


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf


def _add(first: float, second: float) -> float:
    """Return the logarithm of the sum of two numbers from their logarithms."""
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high))


def _check(hits: int, n: int, limit: float) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits in {n} cases is not a count")
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit {limit} is not between 0 and 1")
