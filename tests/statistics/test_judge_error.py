"""Bounds under judge error: against Monte Carlo, the limits they must have, and what a worse judge may not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import beta

from audit import statistics
from audit.statistics import judge_error

MANY = 10**8
Counts = tuple[int, int]
counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
some = st.integers(12, 200).flatmap(lambda n: st.tuples(st.integers(n // 3, n), st.just(n)))
confidences = st.sampled_from([0.6, 0.9, 0.95, 0.99, 0.9995])


@settings(max_examples=60, deadline=None)
@given(counts, confidences)
def test_a_perfect_judge_has_the_exact_bounds(count: Counts, confidence: float) -> None:
    hits, n = count
    high = judge_error.upper_bound(hits, n, MANY, MANY, confidence)
    low = judge_error.lower_bound(hits, n, MANY, MANY, confidence)
    assert high == pytest.approx(statistics.upper_bound(hits, n, confidence), abs=2e-6)
    assert low == pytest.approx(statistics.lower_bound(hits, n, confidence), abs=2e-6)
    if hits:
        p = judge_error.p_above(hits, n, MANY, MANY, 0.1)
        assert p == pytest.approx(statistics.binomial.p_above(hits, n, 0.1), rel=1e-4, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(counts, some, confidences)
def test_the_bounds_are_outside_the_exact_ones_and_the_p_value_is_the_lower_bound_s(
    count: Counts, labels: Counts, confidence: float
) -> None:
    hits, n = count
    high = judge_error.upper_bound(hits, n, *labels, confidence)
    low = judge_error.lower_bound(hits, n, *labels, confidence)
    assert high >= statistics.upper_bound(hits, n, confidence) - 1e-8
    assert low <= statistics.lower_bound(hits, n, confidence) + 1e-8
    if 0 < low < 1:
        assert judge_error.p_above(hits, n, *labels, low) == pytest.approx(1 - confidence, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(counts, some)
def test_more_hits_and_a_worse_judge_move_the_bounds_one_way(count: Counts, labels: Counts) -> None:
    (hits, n), (right, labelled) = count, labels
    high = judge_error.upper_bound(hits, n, right, labelled, 0.95)
    low = judge_error.lower_bound(hits, n, right, labelled, 0.95)
    assert judge_error.upper_bound(hits, n, right - 1, labelled, 0.95) >= high - 1e-9
    assert judge_error.lower_bound(hits, n, right - 1, labelled, 0.95) <= low + 1e-9
    if hits < n:
        assert judge_error.upper_bound(hits + 1, n, right, labelled, 0.95) >= high
        assert judge_error.lower_bound(hits + 1, n, right, labelled, 0.95) >= low


@pytest.mark.parametrize(
    ("hits", "n", "labels", "confidence"),
    [(0, 60, (48, 50), 0.95), (7, 150, (20, 50), 0.95), (60, 150, (12, 12), 0.99), (3, 500, (199, 200), 0.9999)],
)
def test_the_bounds_are_quantiles_of_their_integrals(hits: int, n: int, labels: Counts, confidence: float) -> None:
    """By adaptive quadrature over the density of the judge's rate, which shares nothing with the code's sums."""
    right, labelled = labels
    density = beta(right, labelled - right + 1).pdf
    points = [float(beta(right, labelled - right + 1).ppf(q)) for q in (1e-6, 0.01, 0.5, 0.99)]

    def mean(function: object) -> float:
        pieces = zip([0.0, *points], [*points, 1.0], strict=True)
        return float(sum(integrate.quad(function, a, b, epsabs=1e-14, epsrel=1e-10, limit=200)[0] for a, b in pieces))

    high = judge_error.upper_bound(hits, n, right, labelled, confidence)
    if high < 1:
        above = mean(lambda se: beta.sf(high * se, hits + 1, n - hits) * density(se))
        assert above == pytest.approx(1 - confidence, rel=1e-4)
    low = judge_error.lower_bound(hits, n, right, labelled, confidence)
    if hits and low > 0:
        below = mean(lambda sp: beta.cdf(1 - sp * (1 - low), hits, n - hits + 1) * density(sp))
        assert below == pytest.approx(1 - confidence, rel=1e-4)


@pytest.mark.parametrize(
    ("hits", "n", "sensitivity", "specificity"),
    [(30, 150, (40, 50), (45, 50)), (2, 60, (48, 50), (50, 50)), (140, 150, (50, 50), (190, 200))],
)
def test_melded_intervals_are_those_of_many_draws(hits: int, n: int, sensitivity: Counts, specificity: Counts) -> None:
    rng, draws = np.random.default_rng(7), 1_000_000
    (s, m), (t, k) = sensitivity, specificity

    def drawn(x: int, total: int, upper: bool) -> np.ndarray:
        a, b = (x + 1, total - x) if upper else (x, total - x + 1)
        return np.full(draws, float(upper)) if min(a, b) == 0 else rng.beta(a, b, draws)

    ends = []
    for upper, level in ((False, 0.025), (True, 0.975)):
        pi, se, sp = drawn(hits, n, upper), drawn(s, m, not upper), drawn(t, k, upper)
        false = 1 - sp
        melded = np.where(se > false, (pi - false) / np.where(se > false, se - false, 1), pi > false)
        ends.append(float(np.quantile(np.clip(melded, 0, 1), level)))
    assert judge_error.interval(hits, n, s, m, t, k, 0.95) == pytest.approx(ends, abs=2e-3)


@pytest.mark.parametrize(
    ("labels", "cases"), [((50, 50), 60), ((48, 50), 63), ((40, 50), 76), ((20, 50), 159), ((12, 12), 65)]
)
def test_the_price_of_a_judge_s_misses(labels: Counts, cases: int) -> None:
    """Zero-hit cases that prove a limit of 5 %; 59 with the exact bound."""
    assert judge_error.upper_bound(0, cases, *labels, 0.95) <= 0.05
    assert judge_error.upper_bound(0, cases - 1, *labels, 0.95) > 0.05


def test_a_judge_that_found_or_cleared_nothing_proves_nothing() -> None:
    assert judge_error.upper_bound(0, 100, 0, 20, 0.95) == 1.0
    assert judge_error.lower_bound(100, 100, 0, 20, 0.95) == 0.0
    assert judge_error.p_above(100, 100, 0, 20, 0.1) == 1.0
    assert judge_error.interval(0, 0, 10, 20, 10, 20, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("counts", [(2, 1, 5, 5), (0, 1, 6, 5), (-1, 1, 5, 5)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not a count"):
        judge_error.upper_bound(*counts, 0.95)
    with pytest.raises(ValueError, match="is not between"):
        judge_error.lower_bound(1, 2, 5, 5, 1.0)
