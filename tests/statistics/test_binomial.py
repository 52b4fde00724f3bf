"""Exact statistics against scipy and statsmodels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from audit import statistics
from audit.statistics import binomial

confidences = st.floats(0.51, 0.999)
counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, confidences)
def test_clopper_pearson_is_scipys_and_statsmodels(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    low, high = statistics.clopper_pearson(hits, n, confidence)
    expected = binomtest(hits, n).proportion_ci(confidence, method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (low, high) == pytest.approx(proportion_confint(hits, n, 1 - confidence, method="beta"), abs=1e-9)


@given(counts, confidences)
def test_one_sided_bounds_are_scipys(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    # The upper bound comes from the alternative 'less', the lower from 'greater'.
    less = binomtest(hits, n, alternative="less").proportion_ci(confidence, method="exact")
    greater = binomtest(hits, n, alternative="greater").proportion_ci(confidence, method="exact")
    assert statistics.upper_bound(hits, n, confidence) == pytest.approx(less.high, abs=1e-9)
    assert statistics.lower_bound(hits, n, confidence) == pytest.approx(greater.low, abs=1e-9)


@given(st.integers(1, 10**6), confidences)
def test_zero_hits_is_the_upper_bound_at_zero(n: int, confidence: float) -> None:
    proved = statistics.upper_bound_at_zero(n, confidence)
    assert proved == pytest.approx(statistics.upper_bound(0, n, confidence), rel=1e-6)


@given(st.floats(1e-5, 0.9), confidences)
def test_cases_for_zero_hits_is_the_smallest_that_proves_it(limit: float, confidence: float) -> None:
    n = statistics.cases_for_zero_hits(limit, confidence)
    assert statistics.upper_bound_at_zero(n, confidence) <= limit
    assert statistics.upper_bound_at_zero(n - 1, confidence) > limit


@given(counts, confidences)
def test_one_more_hit_raises_both_bounds(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    if hits < n:
        assert statistics.upper_bound(hits + 1, n, confidence) > statistics.upper_bound(hits, n, confidence)
        assert statistics.lower_bound(hits + 1, n, confidence) > statistics.lower_bound(hits, n, confidence)


cells = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[1] - pair[0]), st.just(pair[1]))
    )
)


@settings(max_examples=200)
@given(cells, st.floats(0.01, 0.99), st.floats(0.8, 0.99))
def test_further_cases_do_decide(cell: tuple[int, int, int], limit: float, confidence: float) -> None:
    hits, unassessed, planned = cell
    further = statistics.further_cases_to_decide(hits, unassessed, planned, limit, confidence)
    worst, best = (hits + unassessed) / planned, hits / planned
    if further is None:
        assert best <= limit <= worst or min(abs(worst - limit), abs(best - limit)) < 1e-3
        return
    n = planned + further
    bad, good = math.ceil(worst * n - 1e-9), math.floor(best * n + 1e-9)
    upper = statistics.upper_bound(min(n, bad), n, confidence)
    lower = statistics.lower_bound(good, n, confidence)
    assert upper <= limit or lower > limit
    if further == 0:
        assert (
            statistics.upper_bound(hits + unassessed, planned, confidence) <= limit
            or statistics.lower_bound(hits, planned, confidence) > limit
        )


def test_further_cases_of_a_known_example() -> None:
    # 0 hits in 10 cases against 10 %: 29 zero-hit cases prove it at 95 % confidence.
    assert statistics.cases_for_zero_hits(0.1, 0.95) == 29
    assert statistics.further_cases_to_decide(0, 0, 10, 0.1, 0.95) == 19
    assert statistics.further_cases_to_decide(0, 5, 10, 0.1, 0.95) is None
    assert statistics.further_cases_to_decide(0, 0, 0, 0.1, 0.95) is None


def test_nothing_assessed_says_nothing() -> None:
    assert statistics.clopper_pearson(0, 0, 0.95) == (0.0, 1.0)
    assert statistics.upper_bound_at_zero(0, 0.95) == 1.0


@pytest.mark.parametrize(("hits", "n", "confidence"), [(2, 1, 0.95), (-1, 1, 0.95), (0, 1, 1.0), (0, 1, 0.0)])
def test_impossible_counts_are_refused(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="is not"):
        statistics.upper_bound(hits, n, confidence)


@given(counts, st.floats(0.001, 0.999))
def test_the_p_value_is_scipys_and_that_of_the_bound(count: tuple[int, int], limit: float) -> None:
    hits, n = count
    p = binomial.p_above(hits, n, limit)
    assert p == pytest.approx(binomtest(hits, n, limit, alternative="greater").pvalue, abs=1e-12)
    if 1e-6 < p < 0.999:
        assert statistics.lower_bound(hits, n, 1 - p) == pytest.approx(limit, abs=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_ratio_s_p_value_is_where_its_bound_meets_the_minimum(counts: tuple[int, int, int]) -> None:
    hits, baseline, pairs = counts
    p = binomial.ratio_p_below(hits, baseline, pairs, 0.8)
    assert 0.0 < p <= 1.0
    if 1e-11 < p < 1.0:
        assert statistics.ratio_upper_bound(hits, baseline, pairs, 1 - p * 1.0001) < 0.8
        assert statistics.ratio_upper_bound(hits, baseline, pairs, 1 - p * 0.999) >= 0.8
