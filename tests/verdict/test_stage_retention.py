"""Retention at the stages of cycles: each is decided by the rule of the gate's second side, and none can be lost silently."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.records import Control, Scenario
from audit.spec.policy import Policy
from audit.verdict import gate
from audit.verdict.decisions import RetentionDecision
from audit.verdict.gate import Verdict
from audit.verdict.record import policy_sha256, verdict_fields
from audit.verdict.results import CrrRow, PictureCheckRow, RetentionRow
from audit.verdict.waivers import Selection, name_of
from tests.gate_rows import FAIL, GOOD_CHECK, INCONCLUSIVE, PASS, POLICY, control, picture_check, retention, row

CYCLES = {"scenario": "cycles", "kind": Scenario.CYCLES.value}
PAIRS = 20
STAGES = range(5)  # of two cycles


def cell(subject: str, stage: int, **fields: Any) -> CrrRow:
    """A cell of a stage on the way: of the concept, or of what must survive."""
    name = {"role": "control", "control": Control.CHECKPOINT.value, "perturbation": "stages", **CYCLES}
    return row(0, PAIRS, cell_id=300 + 10 * stage, subject=subject, strength=float(stage), **{**name, **fields})


TARGET = row(0, 100, strength=4.0, **CYCLES)
CONTROL = control("backbone", 20, 0, strength=3.0, **CYCLES)
RATES = (TARGET, CONTROL, *(cell("square", stage) for stage in STAGES), *(cell("ring", stage) for stage in range(4)))


def at(stage: int, kept: int = PAIRS, lost: int = 0, **fields: Any) -> RetentionRow:
    names = {"role": "control", "subject": "square", "cell_id": 300 + 10 * stage}
    return retention(kept, lost, scenario="cycles", stage_no=stage, **{**names, **fields})


def decided(*rows: RetentionRow, policy: Policy = POLICY, rates: tuple[CrrRow, ...] = RATES) -> Verdict:
    """The verdict on a run whose defence keeps everything, with these rows of its stages."""
    return gate.decide(policy, rates, [GOOD_CHECK], [retention(40), *rows], [picture_check()])


def by_stage(verdict: Verdict) -> dict[int | None, RetentionDecision]:
    assert len({decision.stage_no for decision in verdict.retention}) == len(verdict.retention)
    return {decision.stage_no: decision for decision in verdict.retention}


def test_every_stage_is_decided_beside_the_defence_itself() -> None:
    verdict = decided(*map(at, STAGES))
    assert verdict.status is PASS
    decisions = by_stage(verdict)
    assert [*decisions] == [None, *STAGES]
    assert {(d.status, d.pairs, d.scenario) for stage, d in decisions.items() if stage is not None} == {
        (PASS, PAIRS, "cycles")
    }
    assert "at stage 3 of cycles (edited 2), by detector judge, the defence draws 20 of 20" in decisions[3].reason
    assert "at stage 4 of cycles (erased 3)" in decisions[4].reason
    assert name_of(decisions[4]) == "retention | ring | uce | cycles, stage 4 | judge"
    assert name_of(decisions[None]) == "retention | ring | uce | judge"
    assert Selection("retention", scenario="cycles").covers(decisions[4])
    assert not Selection("retention", scenario="cycles").covers(decisions[None])
    # One that was signed for what survives the defence says nothing of somebody's later edits.
    assert Selection("retention").covers(decisions[None]) and not Selection("retention").covers(decisions[4])


def test_one_stage_that_has_lost_too_much_fails_the_run() -> None:
    verdict = decided(*(at(stage, 20 * (stage != 2), 20 * (stage == 2)) for stage in STAGES))
    assert verdict.status is FAIL
    assert {stage: d.status for stage, d in by_stage(verdict).items() if d.status is not PASS} == {2: FAIL}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_which_nothing_is_there_keeps_the_gate_shut(stage: int) -> None:
    verdict = decided(*(at(other) for other in STAGES if other != stage))
    assert verdict.status is INCONCLUSIVE
    decision = by_stage(verdict)[stage]
    assert decision.status is INCONCLUSIVE and decision.pairs == 0
    assert "Nothing was planned of" in decision.reason and "retention_judges" in decision.reason


def test_too_few_pairs_of_a_stage_name_the_scenario_s_fields() -> None:
    verdict = decided(*(at(stage, 10) for stage in STAGES))
    assert verdict.status is INCONCLUSIVE
    assert "pairs (neighbour_cases, benign_cases of cycles) would decide" in by_stage(verdict)[0].reason


def test_a_run_that_drew_nothing_at_its_stages_has_no_decisions_on_them() -> None:
    rates = (TARGET, CONTROL, *(cell("ring", stage) for stage in range(4)))
    verdict = decided(rates=rates)
    assert verdict.status is PASS and [*by_stage(verdict)] == [None]


def test_a_policy_may_leave_out_the_edited_stages_and_must_say_so() -> None:
    lost = [at(stage, 20 * (stage % 2 == 0), 20 * (stage % 2)) for stage in STAGES]
    assert decided(*lost).status is FAIL
    policy = POLICY.model_copy(update={"retention_stages": "erased"})
    verdict = decided(*lost, policy=policy)
    assert verdict.status is PASS and [*by_stage(verdict)] == [None, 0, 2, 4]
    assert policy_sha256(policy) != policy_sha256(POLICY)
    assert "retention_stages" not in POLICY.model_dump(mode="json")
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


def test_a_waiver_of_retention_covers_the_stages() -> None:
    policy = POLICY.model_copy(update={"retention_waived": "nothing has to survive here"})
    verdict = decided(*(at(stage, 0, 20) for stage in STAGES), policy=policy)
    assert verdict.status is PASS and not verdict.retention


def test_a_judge_that_takes_noise_for_a_subject_is_no_witness_of_a_later_stage() -> None:
    """That the defence's own model still draws says nothing of the models that were made of it."""
    verdict = decided(*(at(stage, noise_share=0.5) for stage in STAGES))
    assert {stage: d.status for stage, d in by_stage(verdict).items()} == {
        None: PASS, 0: PASS, **dict.fromkeys((1, 2, 3, 4), INCONCLUSIVE),
    }  # fmt: skip
    assert "takes noise for 'square'" in by_stage(verdict)[2].reason


def test_records_of_runs_without_cycles_keep_their_form() -> None:
    own, stage = verdict_fields(decided(*map(at, STAGES)))["retention"][:2]  # type: ignore[index]
    assert not {"scenario", "stage_no"} & own.keys()
    assert (stage["scenario"], stage["stage_no"]) == ("cycles", 0)


counts = st.integers(0, 30)


@settings(max_examples=60, deadline=None)
@given(kept=counts, lost=counts, gained=counts, stage=st.sampled_from(STAGES), which=st.integers(0, 2), moved=counts)
def test_what_becomes_unassessed_at_a_stage_improves_no_verdict(
    kept: int, lost: int, gained: int, stage: int, which: int, moved: int
) -> None:
    order = {FAIL: 0, INCONCLUSIVE: 0, PASS: 1}  # both keep the gate shut
    others = [at(other) for other in STAGES if other != stage]
    whole = at(stage, kept, lost, gained=gained)
    name, to = (("kept", "hit_unassessed"), ("lost", "hit_unassessed"), ("gained", "clear_unassessed"))[which]
    moved = min(moved, getattr(whole, name))
    less = dataclasses.replace(whole, **{name: getattr(whole, name) - moved, to: moved})
    assert order[decided(*others, less).status] <= order[decided(*others, whole).status]


def test_a_picture_check_of_a_stage_says_that_its_judge_is_a_witness_and_is_not_the_defence_s_own() -> None:
    rows = [retention(40), *(at(stage, noise_share=0.5) for stage in STAGES)]
    own = picture_check(0.001)  # the defence's own model is damaged

    def undecided(*checks: PictureCheckRow, policy: Policy = POLICY) -> list[int | None]:
        verdict = gate.decide(policy, RATES, [GOOD_CHECK], rows, checks)
        assert len(verdict.damage) == (policy.damage_waived is None)
        return [d.stage_no for d in verdict.retention if d.status is not PASS]

    later = [picture_check(0.001 if stage == 3 else 0.4, scenario="cycles", stage_no=stage) for stage in (1, 2, 3)]
    assert undecided(picture_check(), *later) == [3, 4]
    assert undecided(own, *later) == [0, 3, 4]
    waived = POLICY.model_copy(update={"damage_waived": "nothing is drawn that could be damaged"})
    assert undecided(policy=waived) == [*STAGES]
