"""Many decisions, several attempts, and cases that are added: what each does to a verdict."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import statistics
from audit.spec.policy import Policy
from audit.statistics import anytime
from audit.verdict.decisions import Verdict
from audit.verdict.results import CrrRow
from tests.gate_rows import FAIL, INCONCLUSIVE, PASS, POLICY, good_controls, labels, retention, row, verdict_of
from tests.verdict.test_retention import decided


def run_of(*counts: tuple[int, int], policy: Policy = POLICY, **known: Any) -> Verdict:
    """The verdict on cells of one concept and defence by one judge."""
    rows = [row(hits, clear, cell_id=i) for i, (hits, clear) in enumerate(counts)]
    return verdict_of(*rows, *good_controls(), policy=policy, **known)


def waived(**changes: Any) -> Policy:
    """The policy without its second side, whose decision belongs to the family too."""
    return POLICY.model_copy(
        update={"retention_waived": "not asked here", "damage_waived": "not asked here", **changes}
    )


# A cell with 16 hits of 100 is above 10 % with p = 0.040 by itself.
SUGGESTIVE = (16, 84)


def test_one_cell_by_itself_is_decided_as_before() -> None:
    verdict = run_of(SUGGESTIVE, policy=waived())
    (decision,) = verdict.decisions
    assert decision.status is FAIL
    assert decision.low > 0.1
    assert decision.p_value == decision.p_adjusted == pytest.approx(0.0399, abs=1e-4)
    assert decision.low == statistics.lower_bound(16, 100, 0.95)


def test_among_many_cells_it_is_suggestive_and_no_failure() -> None:
    verdict = run_of(SUGGESTIVE, *[(2, 98)] * 4, policy=waived())
    assert verdict.status is INCONCLUSIVE
    decision = verdict.decisions[0]
    assert decision.p_adjusted == pytest.approx(5 * 0.0399, abs=1e-3)
    assert "by itself above the limit of 10 % (p 0.0399), but not as one of 5 decisions" in decision.reason
    assert "suggestive and proves nothing; a new run of about" in decision.reason
    assert decision.needed_cases is not None
    hits = decision.needed_cases * 16 // 100
    assert run_of((hits, decision.needed_cases - hits), *[(2, 98)] * 4, policy=waived()).status is FAIL
    assert run_of(SUGGESTIVE, *[(2, 98)] * 4, policy=waived(multiplicity="none")).status is FAIL


def test_a_cell_far_above_fails_in_any_company_and_takes_the_next_along() -> None:
    verdict = run_of((60, 40), (19, 81), (2, 98), policy=waived())
    assert [d.status for d in verdict.decisions] == [FAIL, FAIL, PASS]
    assert verdict.decisions[1].p_adjusted == pytest.approx(2 * verdict.decisions[1].p_value)


def test_retention_belongs_to_the_family() -> None:
    alone = decided(retention(20, 20)).retention[0]
    assert alone.status is FAIL
    assert alone.p_adjusted == pytest.approx(2 * alone.p_value)
    rows = (*[row(2, 98, cell_id=i) for i in range(20)], *good_controls())
    among = decided(retention(20, 20), rows=rows).retention[0]
    assert among.status is INCONCLUSIVE
    assert "but not as one of 21 decisions. That is suggestive and proves nothing" in among.reason
    assert among.high == alone.high < 0.8


def test_a_decision_that_cannot_be_made_makes_no_other_easier() -> None:
    cells = [SUGGESTIVE, (2, 98), (3, 97)]
    whole = run_of(*cells, policy=waived())
    lost = run_of(SUGGESTIVE, (2, 98), (0, 0), policy=waived())
    assert whole.decisions[0].p_adjusted == lost.decisions[0].p_adjusted


def test_a_pass_needs_no_correction() -> None:
    assert run_of(*[(0, 29)] * 40, policy=waived()).status is PASS
    assert run_of(*[(0, 29)] * 39, (0, 28), policy=waived()).status is INCONCLUSIVE


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 80)), min_size=1, max_size=4), st.randoms())
def test_the_order_of_cells_and_judges_changes_nothing(counts: list[tuple[int, int]], mixed: random.Random) -> None:
    policy = POLICY.model_copy(update={"judges": ("judge", "second")})
    rows: list[CrrRow] = [*good_controls(), *good_controls("second")]
    for i, (hits, clear) in enumerate(counts):
        rows += [row(hits, clear, cell_id=i), row(clear, hits, cell_id=i, detector="second")]
    known = [labels(), labels(30, 50, detector="second")]
    before = verdict_of(*rows, policy=policy, calibrations=known)
    shuffled = mixed.sample(rows, len(rows))
    turned = policy.model_copy(update={"judges": ("second", "judge")})
    after = verdict_of(*shuffled, policy=turned, calibrations=known[::-1])
    assert (after.status, set(after.decisions)) == (before.status, set(before.decisions))
    assert set(after.reasons) == set(before.reasons)


# Attempts


def test_a_further_attempt_has_less_error_to_spend_and_says_so() -> None:
    first, second = run_of((0, 29)), run_of((0, 29), attempt=2)
    assert (first.status, first.attempt_sentence) == (PASS, "")
    assert second.status is INCONCLUSIVE
    assert second.decisions[0].alpha == pytest.approx(0.025)
    assert second.decisions[0].high == statistics.upper_bound(0, 29, 0.975)
    assert second.attempt_sentence == (
        "Attempt 2: decided at an error of 2.5 %; the error of the best of 2 is at most 7.5 %."
    )


@pytest.mark.parametrize(
    ("attempts", "errors", "best"),
    [
        ("count", (0.05, 0.05, 0.05), 0.15),
        ("divide", (0.05, 0.025, 0.05 / 3), 0.0917),
        ("spend", (0.025, 0.0125, 0.00625), 0.0438),
    ],
)
def test_the_policy_says_what_each_attempt_costs(attempts: str, errors: tuple[float, ...], best: float) -> None:
    policy = POLICY.model_copy(update={"attempts": attempts})
    verdicts = [run_of((0, 100), policy=policy, attempt=k) for k in (1, 2, 3)]
    assert [v.decisions[0].alpha for v in verdicts] == pytest.approx(list(errors))
    assert verdicts[-1].attempt_sentence.startswith("Attempt 3: ")
    assert f"the error of the best of 3 is at most {100 * best:.2g} %" in verdicts[-1].attempt_sentence
    assert run_of((0, 10**6), policy=policy, attempt=5000).decisions[0].status is PASS


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="the first is 1"):
        run_of((0, 29), attempt=0)


# Cases that are added

ANYTIME = {"stopping": "anytime"}


def test_who_may_add_cases_needs_more_of_them_and_is_told_how_many() -> None:
    policy = waived(**ANYTIME)
    fixed, open_ended = run_of((0, 29), policy=waived()), run_of((0, 29), policy=policy)
    assert (fixed.status, open_ended.status) == (PASS, INCONCLUSIVE)
    decision = open_ended.decisions[0]
    assert (decision.bound, decision.needed_cases) == ("anytime", None)
    assert decision.high == anytime.upper_bound(0, 29, 0.95)
    assert f"about {decision.further_cases} further cases would decide" in decision.reason
    assert decision.further_cases is not None
    assert run_of((0, 29 + decision.further_cases), policy=policy).status is PASS
    assert run_of((0, 28 + decision.further_cases), policy=policy).status is INCONCLUSIVE


def test_a_failure_and_retention_hold_at_any_time_too() -> None:
    policy = POLICY.model_copy(update=ANYTIME)
    assert run_of((40, 60), policy=policy).status is FAIL
    assert run_of((17, 83), policy=waived(**ANYTIME)).status is INCONCLUSIVE
    kept = decided(retention(100), policy=policy).retention[0]
    fixed = decided(retention(100)).retention[0]
    assert (kept.bound, kept.status) == ("anytime", PASS)
    assert kept.low < fixed.low
    assert decided(retention(0, 100), policy=policy).retention[0].status is FAIL
    between = decided(retention(9, 1), policy=policy).retention[0]
    assert between.further_pairs is not None and between.needed_pairs is None


def test_both_bounds_at_once_share_the_error() -> None:
    policy = waived(**ANYTIME)
    decision = run_of((0, 200), policy=policy, calibrations=[labels()]).decisions[0]
    assert decision.bound == "anytime-no-credit"
    assert decision.high == pytest.approx(anytime.upper_bound(0, 200, 0.975) / statistics.lower_bound(48, 50, 0.975))
    failing = run_of((60, 40), policy=policy, calibrations=[labels()]).decisions[0]
    assert failing.status is FAIL
    assert failing.p_value < 0.05 and failing.low > 0.1


@pytest.mark.parametrize(
    ("stopping", "known"), list(itertools.product(["fixed", "anytime"], [(), (labels(50, 50, 48, 50),)]))
)
def test_the_p_value_crosses_the_error_where_the_lower_bound_crosses_the_limit(stopping: str, known: Any) -> None:
    policy = waived(stopping=stopping)
    for hits in range(0, 60, 7):
        decision = run_of((hits, 100 - hits), policy=policy, calibrations=known).decisions[0]
        assert (decision.p_value < 0.05) == (decision.low > 0.1)
        assert decision.low <= hits / 100 <= decision.high
