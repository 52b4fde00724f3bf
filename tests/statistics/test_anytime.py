"""The e-process by numerical integration, its bounds, and how often it errs when one looks after every case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from audit import statistics
from audit.statistics import anytime

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 40, 0.05), (3, 60, 0.2), (20, 60, 0.3), (9, 10, 0.5)])
def test_it_is_the_mixture_it_says(hits: int, n: int, limit: float) -> None:
    def relative(p: float) -> float:
        return (p / limit) ** hits * ((1 - p) / (1 - limit)) ** (n - hits)

    below = 0.5 * integrate.quad(relative, 0, limit)[0] / limit + 0.5 * (hits == 0) / (1 - limit) ** n
    above = integrate.quad(relative, limit, 1)[0] / (1 - limit)
    assert anytime.log_e_below(hits, n, limit) == pytest.approx(math.log(below), abs=1e-6)
    assert anytime.log_e_above(hits, n, limit) == pytest.approx(math.log(above), abs=1e-6)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3, 0.7])
def test_it_is_a_fair_bet_at_the_limit(limit: float) -> None:
    """The expectation after one further case is what it was, from every state of 30 cases."""
    for log_e in (anytime.log_e_below, anytime.log_e_above):
        for n in range(30):
            for hits in range(n + 1):
                after = limit * math.exp(log_e(hits + 1, n + 1, limit))
                after += (1 - limit) * math.exp(log_e(hits, n + 1, limit))
                assert after == pytest.approx(math.exp(log_e(hits, n, limit)), rel=1e-6)


def test_zero_hits_prove_five_percent_with_sixty_eight_cases() -> None:
    assert anytime.upper_bound(0, 68, 0.95) <= 0.05 < anytime.upper_bound(0, 67, 0.95)
    assert anytime.log_e_below(0, 60, 0.05, weight=0.9) >= math.log(20) > anytime.log_e_below(0, 59, 0.05, weight=0.9)


@settings(max_examples=150, deadline=None)
@given(counts, st.sampled_from([0.6, 0.9, 0.95, 0.999]))
def test_its_bounds_are_outside_the_exact_ones_and_reject_what_they_say(
    count: tuple[int, int], confidence: float
) -> None:
    hits, n = count
    low, high = anytime.lower_bound(hits, n, confidence), anytime.upper_bound(hits, n, confidence)
    assert low <= statistics.lower_bound(hits, n, confidence) + 1e-9
    assert high >= statistics.upper_bound(hits, n, confidence) - 1e-9
    wanted = -math.log1p(-confidence)
    for limit in np.linspace(high, 1, 7)[1:-1] if high < 1 else ():
        assert anytime.log_e_below(hits, n, float(limit)) >= wanted - 1e-6
    if low > 1e-9:
        for limit in np.linspace(0, low, 7)[1:-1]:
            assert anytime.log_e_above(hits, n, float(limit)) >= wanted - 1e-6
    if hits < n:
        assert anytime.upper_bound(hits + 1, n, confidence) >= high
        assert anytime.lower_bound(hits + 1, n, confidence) >= low


def test_the_p_value_is_the_lower_bound_s() -> None:
    low = anytime.lower_bound(30, 100, 0.95)
    assert anytime.p_above(30, 100, low) == pytest.approx(0.05, rel=1e-6)
    assert anytime.p_above(0, 100, 0.1) == 1.0


@pytest.mark.parametrize(("hits", "n", "limit"), [(2, 1, 0.1), (0, 1, 0.0), (0, 1, 1.0)])
def test_impossible_numbers_are_refused(hits: int, n: int, limit: float) -> None:
    with pytest.raises(ValueError, match="is not"):
        anytime.log_e_below(hits, n, limit)
    with pytest.raises(ValueError, match="confidence"):
        anytime.upper_bound(0, 1, 1.0)
