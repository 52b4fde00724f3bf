"""Power against sums over all outcomes."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from audit import statistics
from audit.statistics import power


def within(limit: float, confidence: float = 0.95) -> power.Rule:
    return lambda hits, n: statistics.upper_bound(hits, n, confidence) <= limit


@pytest.mark.parametrize(("n", "rate"), [(58, 0.01), (59, 0.0), (150, 0.01), (300, 0.03), (300, 1.0)])
def test_a_cell_s_power_is_the_sum_over_what_passes(n: int, rate: float) -> None:
    passes = within(0.05)
    expected = sum(float(binom.pmf(h, n, rate)) for h in range(n + 1) if passes(h, n))
    assert power.cell_power(n, rate, passes) == pytest.approx(expected, abs=1e-12)


def test_one_cell_that_usually_passes_is_a_run_that_rarely_does() -> None:
    one = power.cell_power(150, 0.01, within(0.05))
    assert one == pytest.approx(0.81, abs=0.005)
    assert power.joint_power([one] * 30) == pytest.approx(0.002, abs=5e-4)
    cases = power.cases_for_power(0.9, 30, 0.01, within(0.05))
    assert cases is not None
    assert power.cell_power(cases, 0.01, within(0.05)) ** 30 >= 0.9


def test_a_rate_above_the_limit_has_no_number_of_cases() -> None:
    assert power.cases_for_power(0.9, 1, 0.06, within(0.05)) is None
    assert power.most_hits(58, within(0.05)) is None
    assert power.most_hits(0, within(0.05)) is None
    assert power.most_hits(10, lambda hits, n: True) == 10
