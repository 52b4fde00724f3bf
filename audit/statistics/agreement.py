"""How far two raters agree: Cohen's kappa with an interval. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri


@dataclasses.dataclass(frozen=True)
class Agreement:
    """`kappa` with its interval at `confidence`; None where both raters gave one and the same label throughout."""

    pictures: int
    agreed: int
    kappa: float | None
    low: float
    high: float
    confidence: float


def agreement(
    first: Sequence[str], second: Sequence[str], labels: Sequence[str], confidence: float = 0.95
) -> Agreement:
    """Return how far two raters agree on the same pictures, in order.

    kappa = (p_o - p_e) / (1 - p_e) (J. Cohen, Educational and Psychological Measurement 20, 1960, eq. 1). The interval is
    the hull of two: with the large-sample variance of J. L. Fleiss, J. Cohen and B. S. Everitt, Psychological Bulletin 72,
    1969, eq. 13, which vanishes where raters agree throughout, and with exact Clopper-Pearson bounds of p_o at the observed
    p_e, which do not. Raises ValueError for sequences of different lengths.
    """
    place = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for a, b in zip(first, second, strict=True):
        table[place[a], place[b]] += 1
    return agreement_of(table, confidence)


def agreement_of(table: npt.NDArray[np.float64], confidence: float = 0.95) -> Agreement:
    """Return how far two raters agree from the counts of their labels, the first one's by rows; see `agreement`."""
    n, agreed = int(table.sum()), int(np.trace(table))
    if n == 0:
        return Agreement(0, 0, None, -1.0, 1.0, confidence)
    shares = table / n
    rows, columns = shares.sum(1), shares.sum(0)
    observed, expected = agreed / n, float(rows @ columns)
    if expected >= 1.0:
        return Agreement(n, agreed, None, -1.0, 1.0, confidence)
    kappa = (observed - expected) / (1.0 - expected)
    reach = float(ndtri((1.0 + confidence) / 2.0)) * float(np.sqrt(_variance(shares, observed, expected) / n))
    low, high = _exact(agreed, n, confidence)
    exact_low, exact_high = (low - expected) / (1.0 - expected), (high - expected) / (1.0 - expected)
    return Agreement(
        n, agreed, kappa, max(-1.0, min(exact_low, kappa - reach)), min(1.0, max(exact_high, kappa + reach)), confidence
    )


def _variance(shares: npt.NDArray[np.float64], observed: float, expected: float) -> float:
    """Return n times the large-sample variance of kappa (Fleiss, Cohen and Everitt, eq. 13)."""
    rows, columns = shares.sum(1), shares.sum(0)
    sums = rows[None, :] + columns[:, None]  # p.j + pi. with the raters' marginals exchanged, as the equation has them
    gap, miss = 1.0 - expected, 1.0 - observed
    diagonal = np.diag(shares)
    on = float((diagonal * (gap - np.diag(sums) * miss) ** 2).sum())
    off = float(((shares * sums**2).sum() - (diagonal * np.diag(sums) ** 2).sum()) * miss**2)
    return max(0.0, (on + off - (observed * expected - 2.0 * expected + observed) ** 2) / gap**4)


def _exact(hits: int, n: int, confidence: float) -> tuple[float, float]:
    side = (1.0 - confidence) / 2.0
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, side))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1.0 - side))
    return low, high
