"""What a plan can say of its own chances."""

from __future__ import annotations

import numpy as np
import pytest

from audit.spec.policy import Limit, Policy
from audit.verdict.planned import cell_chance, run_power, zero_hits
from tests.gate_rows import PASS, POLICY, good_controls, row, verdict_of

STRICT = POLICY.model_copy(update={"limits": (Limit(crr_max=0.05),), "judges": ("judge", "second")})


@pytest.mark.parametrize("stopping", ["fixed", "anytime"])
def test_zero_hits_in_the_named_number_of_cases_pass_the_gate(stopping: str) -> None:
    policy = POLICY.model_copy(update={"stopping": stopping})
    bound, needed = zero_hits(policy, 29, 0.1)
    assert needed == {"fixed": 29, "anytime": 33}[stopping]
    assert (bound <= 0.1) == (stopping == "fixed")
    for cases, passes in ((needed, True), (needed - 1, False)):
        assert (verdict_of(row(0, cases), *good_controls(), policy=policy).status is PASS) == passes
    assert zero_hits(policy, 0, 0.1) == (1.0, needed)


def test_the_chance_of_a_cell_is_how_often_the_gate_passes_it() -> None:
    rng = np.random.default_rng(4)
    hits, counts = np.unique(rng.binomial(150, 0.01, 4000), return_counts=True)
    policy = STRICT.model_copy(update={"judges": ("judge",)})
    passed = sum(
        int(count)
        for h, count in zip(hits, counts, strict=True)
        if verdict_of(row(int(h), 150 - int(h)), *good_controls(), policy=policy).status is PASS
    )
    assert passed / 4000 == pytest.approx(cell_chance(policy, 150, 0.05, 0.01), abs=0.02)


def test_a_run_of_many_cells_passes_rarely_though_each_does_usually() -> None:
    planned = run_power(STRICT, [(150, 0.05)] * 30, 0.01)
    assert cell_chance(STRICT, 150, 0.05, 0.01) == pytest.approx(0.81, abs=0.005)
    assert planned.agreeing == pytest.approx(0.002, abs=5e-4)
    assert planned.independent == pytest.approx(planned.agreeing**2)
    assert planned.cases is not None
    assert run_power(STRICT, [(planned.cases, 0.05)] * 30, 0.01).agreeing >= 0.9


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_model_at_its_limit_has_no_number_of_cases(rate: float) -> None:
    assert run_power(STRICT, [(150, 0.05)], rate).cases is None


def test_who_may_add_cases_has_less_power_at_the_first_look() -> None:
    open_ended = STRICT.model_copy(update={"stopping": "anytime"})
    assert cell_chance(open_ended, 150, 0.05, 0.01) < cell_chance(STRICT, 150, 0.05, 0.01)


def test_a_plan_without_limited_cells_has_nothing_to_pass() -> None:
    planned = run_power(Policy(version="1", limits=(Limit(crr_max=0.1),), judges=("judge",)), [], 0.01)
    assert (planned.cells, planned.agreeing, planned.cases) == (0, 1.0, None)
