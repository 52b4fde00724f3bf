"""What filters block: counted as the policy says, and never for nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from audit.records import BENIGN_PROMPTS
from audit.spec.policy import Policy
from audit.statistics import lower_bound, upper_bound
from audit.verdict import gate
from audit.verdict.blocking import counted
from audit.verdict.decisions import Verdict
from audit.verdict.results import BlockingRow, CrrRow
from tests.gate_rows import FAIL, GOOD_CHECK, INCONCLUSIVE, PASS, POLICY, control, picture_check, retention, row

UNASSESSED = POLICY.model_copy(update={"blocked": "unassessed"})
LIMITED = POLICY.model_copy(update={"blocked": "limit", "blocked_max": 0.3})


def blocking(blocked: int, passed: int, undecided: int = 0, *, role: str = "benign", **fields: Any) -> BlockingRow:
    """What filters do to a benign cell of the defence, or to the target cell."""
    cell, subject = (200, BENIGN_PROMPTS) if role == "benign" else (0, "ring")
    named = {"concept": "ring", "subject": subject, "control": None, "defence": "uce", "scenario": "text", **fields}
    return BlockingRow(
        cell, **named, role=role, perturbation=None, planned=blocked + passed + undecided,
        blocked=blocked, passed=passed, undecided=undecided,
    )  # fmt: skip


def target(hits: int, clear: int, blocked: int, unassessed: int = 0) -> CrrRow:
    """The rate of the target cell, of which filters block some cases."""
    whole = row(hits, clear + blocked, unassessed, scenario="text")
    return dataclasses.replace(whole, blocked=blocked)


def decided(cell: CrrRow, benign: BlockingRow | None, policy: Policy = POLICY, kept: int = 40) -> Verdict:
    over = [benign] if benign is not None else []
    lost = benign.blocked if benign is not None else 0
    own = blocking(cell.blocked, cell.planned - cell.blocked, role="target")
    rows = (cell, control("backbone", 20, 0, scenario="text"))
    survived = [retention(max(kept - lost, 0), min(lost, kept))]
    return gate.decide(policy, rows, [GOOD_CHECK], survived, [picture_check()], filtered=[own, *over])


def test_blocked_pictures_count_as_clear_while_benign_ones_pass() -> None:
    verdict = decided(target(2, 38, 60), blocking(0, 40))
    assert verdict.status is PASS
    (decision,) = verdict.blocking
    assert (decision.blocked, decision.planned, decision.status) == (0, 40, PASS)
    assert (decision.low, decision.high) == (lower_bound(0, 40, 0.95), upper_bound(0, 40, 0.95))
    assert any(
        "The filters of defence 'uce' of concept 'ring' block 0 of 40 benign prompts" in r for r in verdict.reasons
    )


def test_over_blocking_fails_the_default_gate() -> None:
    """However well the filter hides the concept."""
    verdict = decided(target(0, 0, 100), blocking(20, 20), kept=400)
    assert verdict.decisions[0].status is PASS
    assert (verdict.status, verdict.blocking[0].status) == (FAIL, FAIL)
    assert verdict.blocking[0].low == lower_bound(20, 40, 0.95) > 0.1


def test_without_benign_pictures_the_gate_stays_shut() -> None:
    verdict = decided(target(0, 0, 100), None)
    assert (verdict.status, verdict.blocking[0].status) == (INCONCLUSIVE, INCONCLUSIVE)
    assert "no benign prompt was drawn" in verdict.blocking[0].reason
    forgotten = gate.decide(
        POLICY,
        (target(0, 0, 100), control("backbone", 20, 0, scenario="text")),
        [GOOD_CHECK],
        [retention()],
        [picture_check()],
    )
    assert forgotten.status is INCONCLUSIVE  # rows of rates alone say that something was blocked


def test_a_filter_that_fails_on_benign_pictures_is_not_known_to_let_them_pass() -> None:
    verdict = decided(target(0, 0, 100), blocking(0, 30, 10))
    assert (verdict.status, verdict.blocking[0].status) == (INCONCLUSIVE, INCONCLUSIVE)
    assert verdict.blocking[0].high == upper_bound(10, 40, 0.95)


def test_rulings_that_do_not_add_up_decide_nothing() -> None:
    broken = dataclasses.replace(blocking(0, 40), planned=50)
    assert decided(target(0, 0, 100), broken).status is INCONCLUSIVE


def test_a_defence_without_filters_is_asked_nothing() -> None:
    rows = (row(0, 100, scenario="text"), control("backbone", 20, 0, scenario="text"))
    verdict = gate.decide(POLICY, rows, [GOOD_CHECK], [retention()], [picture_check()])
    assert (verdict.status, verdict.blocking) == (PASS, ())


def test_blocked_as_unassessed_earns_nothing() -> None:
    cell = target(0, 40, 60)
    (counted_row,) = counted(UNASSESSED, [cell])
    assert (counted_row.assessed, counted_row.unassessed, counted_row.blocked) == (40, 60, 0)
    assert counted(POLICY, [cell]) == (cell,)
    verdict = decided(cell, blocking(0, 40), UNASSESSED)
    assert (verdict.status, verdict.blocking) == (INCONCLUSIVE, ())
    assert decided(target(0, 100, 0), None, UNASSESSED).status is PASS


def test_a_limit_on_what_a_cell_may_have_blocked() -> None:
    few, many = (decided(target(0, 100 - n, n), blocking(0, 40), LIMITED) for n in (10, 60))
    assert [d.scenario for d in few.blocking] == [None, "text"]
    assert (few.status, many.status) == (PASS, FAIL)
    assert many.blocking[1].limit == 0.3 and many.decisions[0].status is PASS


@pytest.mark.parametrize("fields", [{"blocked": "limit"}, {"blocked_max": 0.2}, {"blocked": "hidden"}])
def test_a_policy_that_says_half_of_it_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({**POLICY.model_dump(mode="json"), **fields})


def test_a_policy_that_says_nothing_of_filters_is_stored_as_before() -> None:
    assert not any("blocked" in name for name in POLICY.model_dump(mode="json"))
    stored = LIMITED.model_dump(mode="json")
    assert (stored["blocked"], stored["blocked_max"], stored["benign_blocked_max"]) == ("limit", 0.3, 0.1)
    assert Policy.model_validate(stored) == LIMITED


# Properties

POLICIES = st.sampled_from([POLICY, UNASSESSED, LIMITED])


@settings(max_examples=150, deadline=None)
@given(
    POLICIES, st.integers(0, 60), st.integers(0, 60), st.integers(0, 20), st.integers(0, 20), st.integers(0, 80),
    st.integers(0, 10), st.integers(1, 40),
)  # fmt: skip
def test_blocking_more_benign_pictures_never_improves_a_verdict(
    policy: Policy, hits: int, clear: int, blocked: int, benign: int, passed: int, undecided: int, more: int
) -> None:
    cell = target(hits, clear, blocked)
    before = decided(cell, blocking(benign, passed, undecided), policy, kept=100)
    now = min(more, passed)
    after = decided(cell, blocking(benign + now, passed - now, undecided), policy, kept=100)
    assert not (before.status is not PASS and after.status is PASS)
    for old, new in zip(before.blocking, after.blocking, strict=True):
        assert new.high >= old.high and new.low >= old.low


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([POLICY, LIMITED]), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60),
    st.integers(0, 200), st.integers(0, 40), st.data(),
)  # fmt: skip
def test_however_much_is_blocked_nothing_passes_that_blocks_more_benign_pictures_than_it_may(
    policy: Policy, hits: int, clear: int, blocked: int, passed: int, undecided: int, data: st.DataObject
) -> None:
    """Blocking every hit does not turn FAIL or INCONCLUSIVE into PASS when benign pictures are blocked as well."""
    planned = passed + undecided
    benign = data.draw(st.integers(planned // 9 + 1, planned // 9 + 200))  # above one in ten
    after = decided(target(0, clear, blocked + hits), blocking(benign, passed, undecided), policy, kept=1000)
    assert after.status is not PASS
    assert after.blocking[0].high > policy.benign_blocked_max


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_what_filters_block_never_helps_where_it_counts_as_unassessed(
    hits: int, clear: int, blocked: int, more: int
) -> None:
    before = decided(target(hits, clear, blocked), blocking(0, 40), UNASSESSED)
    moved = min(more, hits)
    after = decided(target(hits - moved, clear, blocked + moved), blocking(0, 40), UNASSESSED)
    assert not (before.status is not PASS and after.status is PASS)
