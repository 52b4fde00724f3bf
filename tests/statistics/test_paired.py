"""Paired comparisons against scipy, statsmodels and enumeration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from audit.statistics import paired
from audit.statistics.paired import Pairs


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test_and_half_of_statsmodels(first_only: int, second_only: int) -> None:
    p = paired.mcnemar(first_only, second_only)
    if first_only + second_only:
        assert p == pytest.approx(binomtest(second_only, first_only + second_only, alternative="greater").pvalue)
        if second_only > first_only:
            assert 2 * p == pytest.approx(mcnemar([[5, first_only], [second_only, 5]], exact=True).pvalue)
        seen = float(binom.pmf(second_only, first_only + second_only, 0.5))
        assert paired.mid_p(first_only, second_only) == pytest.approx(p - seen / 2, abs=1e-12)
    else:
        assert p == 1.0
        assert paired.mid_p(0, 0) == 0.5


@pytest.mark.parametrize("counts", [(14, 5, 0, 22), (20, 1, 12, 2), (0, 0, 0, 30), (30, 0, 0, 0), (1, 9, 8, 1)])
def test_newcombe_s_interval_combines_two_wilson_intervals(counts: tuple[int, int, int, int]) -> None:
    """By the formulas of Altman et al., Statistics with Confidence, 2000, page 52, on statsmodels' Wilson intervals."""
    r, s, t, u = counts
    n = sum(counts)
    first, second = (r + s) / n, (r + t) / n
    (l1, u1), (l2, u2) = (proportion_confint(x, n, 0.05, method="wilson") for x in (r + s, r + t))
    margins = (r + s) * (t + u) * (r + t) * (s + u)
    numerator = r * u - s * t
    corrected = numerator - n / 2 if numerator > n / 2 else min(numerator, 0)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    down = math.sqrt((first - l1) ** 2 - 2 * phi * (first - l1) * (u2 - second) + (u2 - second) ** 2)
    up = math.sqrt((second - l2) ** 2 - 2 * phi * (second - l2) * (u1 - first) + (u1 - first) ** 2)
    interval = paired.difference_interval(Pairs(*counts), 0.95)
    assert interval == pytest.approx((second - first - up, second - first + down), abs=1e-9)


def test_newcombe_s_interval_of_a_published_example() -> None:
    """Airway responsiveness before and after transplantation: Fagerland, Lydersen and Laake, Stat. Med. 33, 2014."""
    low, high = paired.difference_interval(Pairs(both=1, first_only=1, second_only=7, neither=12), 0.95)
    assert (low, high) == pytest.approx((0.026, 0.507), abs=5e-4)


@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_newcombe_s_interval_holds_the_estimate_and_turns_with_the_order(counts: tuple[int, int, int, int]) -> None:
    pairs = Pairs(*counts)
    low, high = paired.difference_interval(pairs, 0.9)
    assert -1.0 <= low <= high <= 1.0
    if pairs.n:
        assert low - 1e-9 <= (pairs.second_only - pairs.first_only) / pairs.n <= high + 1e-9
    turned = Pairs(pairs.both, pairs.second_only, pairs.first_only, pairs.neither)
    assert paired.difference_interval(turned, 0.9) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.0, 0.1), (0.3, 0.3), (0.02, 0.12)])
def test_the_increase_s_bound_errs_no_more_often_than_stated(shares: tuple[float, float]) -> None:
    n, (first_only, second_only) = 60, shares
    missed = sum(
        float(binom.pmf(c, n, second_only))
        for c in range(n + 1)
        if paired.increase_bound(c, n, 0.95) < second_only - first_only
    )
    assert missed <= 0.05
    assert paired.increase_bound(0, 59, 0.95) <= 0.05 < paired.increase_bound(0, 58, 0.95)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="are not counts"):
        paired.mcnemar(-1, 2)
    assert math.isclose(paired.mcnemar(3, 0), 1.0)
