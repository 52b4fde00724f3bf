"""Bounds of a rate that was read by a judge who errs, from counts of the judge's own errors.

A judge found `found` of `positives` pictures that people call positive (its sensitivity Se) and cleared `cleared` of
`negatives` (its specificity Sp). Of `n` cases it calls `hits` hits, so that pi, the rate of its hits, is
p Se + (1 - p)(1 - Sp) of the true rate p. Every quantity has a confidence distribution, a beta distribution whose quantiles
are its Clopper-Pearson bounds: of x in n the upper one is Beta(x + 1, n - x), the lower one Beta(x, n - x + 1). A bound is a
quantile of the melded quantity (M. P. Fay, M. A. Proschan and E. Brittain, "Combining one-sample confidence procedures for
inference in the two-sample case", Biometrics 71, 2015; for prevalence B. L. Bayer, M. P. Fay and B. I. Graubard,
arXiv 2205.13494).

The two bounds that decide credit a judge with no error in favour of the claim: `upper_bound` takes none of the hits for a
false alarm, `lower_bound` takes no clear case for a miss. So a worse judge never makes a decision easier, and a judge
without errors has the Clopper-Pearson bounds in the limit of many labels. `interval` credits both, for display.

Expectations are Gauss-Legendre sums over quantiles, for decisions in pieces that are fine in both tails, and roots are
Brent's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, betaincc, betaincinv

Array = npt.NDArray[np.float64]
_TAILS = (0.0, 1e-9, 1e-7, 1e-5, 1e-3, 0.03, 0.2)
_PRECISION = 1e-10


def upper_bound(hits: int, n: int, found: int, positives: int, confidence: float) -> float:
    """Return the upper bound of the true rate that credits no false alarm: the `confidence` quantile of pi_U / Se_L.

    pi_U ~ Beta(hits + 1, n - hits), Se_L ~ Beta(found, positives - found + 1). At least the Clopper-Pearson bound of the
    hits; 1 where the judge found nothing, and when every case is a hit. Raises `ValueError` for impossible counts.
    """
    _check((hits, n), (found, positives), confidence)
    if hits == n or found == 0:
        return 1.0
    probability = _above(hits, n, found, positives)
    return _root(lambda rate: probability(rate) - (1.0 - confidence))


def lower_bound(hits: int, n: int, cleared: int, negatives: int, confidence: float) -> float:
    """Return the lower bound of the true rate that credits no miss: the 1 - `confidence` quantile of (pi_L - f) / (1 - f).

    f = 1 - Sp_L, pi_L ~ Beta(hits, n - hits + 1), Sp_L ~ Beta(cleared, negatives - cleared + 1). At most the Clopper-Pearson
    bound of the hits; 0 where the judge cleared nothing, and without hits. Raises `ValueError` for impossible counts.
    """
    _check((hits, n), (cleared, negatives), confidence)
    if hits == 0 or cleared == 0:
        return 0.0
    probability = _below(hits, n, cleared, negatives)
    return _root(lambda rate: (1.0 - confidence) - probability(rate))


def p_below(hits: int, n: int, found: int, positives: int, limit: float) -> float:
    """Return the p-value of "the true rate is above `limit`" that belongs to `upper_bound`: P(pi_U / Se_L > limit), in [0, 1]."""
    _check((hits, n), (found, positives), 0.5)
    return 1.0 if hits == n or found == 0 else min(1.0, _above(hits, n, found, positives)(limit))


def p_above(hits: int, n: int, cleared: int, negatives: int, limit: float) -> float:
    """Return the p-value of "the true rate is at most `limit`" that belongs to `lower_bound`: P((pi_L - f) / (1 - f) <= limit).

    In [0, 1]; with a judge that errs in no case and many labels P(Binomial(n, limit) >= hits).
    """
    _check((hits, n), (cleared, negatives), 0.5)
    return 1.0 if hits == 0 or cleared == 0 else min(1.0, _below(hits, n, cleared, negatives)(limit))


def interval(
    hits: int, n: int, found: int, positives: int, cleared: int, negatives: int, confidence: float
) -> tuple[float, float]:
    """Return (low, high): the two-sided melded interval of the true rate, with both kinds of error taken out; for display.

    Quantiles of g = (pi - f) / (Se - f), f = 1 - Sp, clipped to [0, 1] and 1 where Se <= f < pi: the upper one of
    (pi_U, Se_L, Sp_U), the lower one of (pi_L, Se_U, Sp_L). Its coverage is close to `confidence` and not guaranteed, and a
    judge with many false alarms makes it lower; so it decides nothing. (0, 1) when `n` is 0.
    """
    _check((hits, n), (found, positives), confidence)
    _check((hits, n), (cleared, negatives), confidence)
    error = (1.0 - confidence) / 2.0
    high = 1.0 if hits == n else _melded(
        functools.partial(betaincc, hits + 1, n - hits), _lower_quantiles(found, positives, True),
        _upper_quantiles(cleared, negatives), error,
    )  # fmt: skip
    low = 0.0 if hits == 0 else _melded(
        functools.partial(betaincc, hits, n - hits + 1), _upper_quantiles(found, positives),
        _lower_quantiles(cleared, negatives, True), 1.0 - error,
    )  # fmt: skip
    return min(low, high), high


def _melded(
    survival: Callable[[Array], Array], sensitivity: tuple[Array, Array], specificity: tuple[Array, Array], error: float
) -> float:
    """Return the quantile of g that a share `error` of its distribution exceeds."""
    (first, se), (second, sp) = sensitivity, specificity
    false = 1.0 - sp[None, :]
    room = np.maximum(se[:, None] - false, 0.0)
    return _root(lambda rate: float(first @ survival(np.minimum(false + rate * room, 1.0)) @ second) - error, 1e-6)


def _above(hits: int, n: int, found: int, positives: int) -> Callable[[float], float]:
    """Return rate -> P(pi_U / Se_L > rate)."""
    weights, sensitivity = _lower_quantiles(found, positives)
    return lambda rate: float(weights @ betaincc(hits + 1, n - hits, np.minimum(rate * sensitivity, 1.0)))


def _below(hits: int, n: int, cleared: int, negatives: int) -> Callable[[float], float]:
    """Return rate -> P((pi_L - f) / (1 - f) <= rate)."""
    weights, specificity = _lower_quantiles(cleared, negatives)
    return lambda rate: float(weights @ betainc(hits, n - hits + 1, 1.0 - specificity * (1.0 - rate)))


def _root(falling: Callable[[float], float], precision: float = _PRECISION) -> float:
    """Return where a falling function of a rate crosses zero; 0 or 1 where it does not."""
    if falling(0.0) <= 0.0:
        return 0.0
    if falling(1.0) >= 0.0:
        return 1.0
    return float(brentq(falling, 0.0, 1.0, xtol=precision, rtol=1e-10))


@functools.lru_cache(maxsize=512)
def _lower_quantiles(hits: int, n: int, coarse: bool = False) -> tuple[Array, Array]:
    """Return (weights, values) of Beta(hits, n - hits + 1); of the point 0 without hits."""
    weights, at = _coarse_nodes() if coarse else _nodes()
    return weights, betaincinv(hits, n - hits + 1, at) if hits else np.zeros_like(at)


@functools.lru_cache(maxsize=512)
def _upper_quantiles(hits: int, n: int) -> tuple[Array, Array]:
    """Return (weights, values) of Beta(hits + 1, n - hits), for display; of the point 1 when all are hits."""
    weights, at = _coarse_nodes()
    return weights, betaincinv(hits + 1, n - hits, at) if hits < n else np.ones_like(at)


@functools.cache
def _coarse_nodes() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return weights / 2.0, (nodes + 1.0) / 2.0


@functools.cache
def _nodes() -> tuple[Array, Array]:
    """Return (weights, probabilities) of a Gauss-Legendre rule over (0, 1), piece by piece."""
    edges = np.array([*_TAILS, 0.5, *(1.0 - edge for edge in reversed(_TAILS))])
    nodes, weights = np.polynomial.legendre.leggauss(8)
    width, start = np.diff(edges)[:, None], edges[:-1, None]
    return (width * weights / 2.0).ravel(), (start + width * (nodes + 1.0) / 2.0).ravel()


def _check(rate: tuple[int, int], judged: tuple[int, int], confidence: float) -> None:
    for hits, n in (rate, judged):
        if not 0 <= hits <= n:
            raise ValueError(f"{hits} of {n} is not a count")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
