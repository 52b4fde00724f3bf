"""Waivers on verdicts of the real gate: what they cover, what nothing covers, and when they are as if absent."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.verdict import gate
from audit.verdict.decisions import CheckResult, Verdict, VerdictStatus
from audit.verdict.record import policy_sha256
from audit.verdict.results import CrrRow
from audit.verdict.waivers import Honoured, Selection, Waiver, honoured
from tests.gate_rows import GOOD_CHECK, POLICY, good_controls, picture_check, retention, row, second_side, verdict_of

NOW = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
DIGEST = policy_sha256(POLICY)
FAILING = (row(60, 40), *good_controls())
BETWEEN = (row(10, 90), *good_controls())  # 10 % with a limit of 10 %


def waiver(*cells: Selection, **changes: Any) -> Waiver:
    fields: dict[str, Any] = {
        "name": "w.json", "run_id": "run-1", "policy_sha256": DIGEST, "cells": cells or (Selection(concept="ring"),),
        "reason": "ships to nobody yet", "owner": "Ada", "approver": "Bob", "compensating_control": "closed beta",
        "since": NOW - DAY, "until": NOW + 30 * DAY,
    }  # fmt: skip
    return Waiver(**{**fields, **changes})


def asked(verdict: Verdict, rows: Sequence[CrrRow], *waivers: Waiver, now: dt.datetime = NOW) -> Honoured:
    return honoured(verdict, waivers, now, run_id="run-1", policy=POLICY, crr=rows)


@pytest.mark.parametrize(("rows", "status"), [(FAILING, "FAIL"), (BETWEEN, "INCONCLUSIVE")])
def test_a_measured_risk_can_be_waived_and_keeps_its_status(rows: tuple[CrrRow, ...], status: str) -> None:
    verdict = verdict_of(*rows)
    found = asked(verdict, rows, waiver())
    assert found.opens and found.ignored == ()
    (one,) = found.waived
    assert one.status == f"{status} (waived until 2026-12-02)"
    assert one.decision.status.value == verdict.status.value == status
    assert "owner Ada, approved by Bob: ships to nobody yet; compensating control: closed beta" in str(one)


def test_every_decision_has_to_be_covered() -> None:
    rows = [*FAILING, row(60, 40, cell_id=1, scenario="text"), *good_controls(scenario="text")[2:3]]
    verdict = verdict_of(*rows)
    text, latent = Selection(scenario="text"), Selection(scenario="latent-whitebox")
    half = asked(verdict, rows, waiver(text))
    assert not half.opens and half.uncovered == ("FAIL  ring | uce | latent-whitebox | judge  no waiver covers it",)
    assert asked(verdict, rows, waiver(text), waiver(latent)).opens
    assert asked(verdict, rows, waiver(text, latent)).opens


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run_id": "run-2"}, "it is for run run-2"),
        ({"policy_sha256": "q" * 64}, "it was given under another policy"),
        ({"until": NOW - dt.timedelta(seconds=1)}, "it expired on 2026-11-02"),
        ({"since": NOW + DAY}, "it counts from 2026-11-03"),
        ({"until": NOW + 400 * DAY}, "it is for more than 90 days"),
        ({"cells": (Selection(concept="disc"),)}, "it is for side=reproduction,concept=disc, and nothing of that"),
        ({"cells": (Selection(defence="esd"),)}, "nothing of that has failed"),
        ({"cells": (Selection(judge="other"),)}, "nothing of that has failed"),
        ({"cells": (Selection(side="retention", concept="ring"),)}, "nothing of that has failed"),
    ],
)
def test_a_waiver_that_does_not_count_is_as_if_absent(changes: dict[str, Any], sentence: str) -> None:
    found = asked(verdict_of(*FAILING), FAILING, waiver(**changes))
    assert not found.opens and found.waived == () and len(found.uncovered) == 1
    assert len(found.ignored) == 1 and sentence in found.ignored[0]


@pytest.mark.parametrize(
    ("checks", "sentence"),
    [
        ((GOOD_CHECK, CheckResult("rows", "sql", "failed", "2 rows", 2)), "the data checks rows did not pass"),
        ((CheckResult("rows", "sql", "error", "boom", 0),), "the data checks rows did not pass"),
        ((), "no data check was run"),
    ],
)
def test_data_checks_cannot_be_waived(checks: tuple[CheckResult, ...], sentence: str) -> None:
    found = asked(verdict_of(*FAILING, checks=checks), FAILING, waiver())
    assert not found.opens and sentence in found.uncovered[0]


@pytest.mark.parametrize(
    "rows",
    [
        (row(0, 0, 100), *good_controls()),
        (row(60, 40), *good_controls()[1:]),  # its reference control is missing
        (row(60, 40, cell_id=0), row(60, 40, cell_id=0), *good_controls()),  # two sets of readings
    ],
)
def test_what_was_not_measured_cannot_be_waived(rows: tuple[CrrRow, ...]) -> None:
    verdict = verdict_of(*rows)
    assert verdict.status is VerdictStatus.INCONCLUSIVE
    found = asked(verdict, rows, waiver())
    assert not found.opens and found.waived == () and "cannot be waived" in found.uncovered[0]


def test_a_judge_whose_errors_the_policy_asks_for_and_nobody_knows_cannot_be_waived() -> None:
    policy = POLICY.model_copy(update={"judge_error": "required"})
    verdict = verdict_of(*FAILING, policy=policy)
    assert verdict.status is VerdictStatus.INCONCLUSIVE
    given = waiver(policy_sha256=policy_sha256(policy))
    found = honoured(verdict, [given], NOW, run_id="run-1", policy=policy, crr=FAILING)
    assert not found.opens and "the policy asks for labelled pictures" in found.uncovered[0]


def test_a_run_without_cells_cannot_be_waived() -> None:
    verdict = gate.decide(POLICY, good_controls(), [GOOD_CHECK])
    assert not asked(verdict, good_controls(), waiver()).opens


def test_retention_can_be_waived_by_name_and_damage_never() -> None:
    passing = [row(0, 100), *good_controls()]
    lost = gate.decide(POLICY, passing, [GOOD_CHECK], [retention(0, 40)], [picture_check()])
    assert lost.status is VerdictStatus.FAIL
    assert not asked(lost, passing, waiver()).opens
    assert asked(lost, passing, waiver(Selection(side="retention", defence="uce"))).opens
    damaged = gate.decide(POLICY, passing, [GOOD_CHECK], second_side(passing)[0], [picture_check(0.0001)])
    every = (Selection(concept="ring"), Selection(side="retention", concept="ring"))
    found = asked(damaged, passing, waiver(*every))
    assert not found.opens and any("a damaged model" in sentence for sentence in found.uncovered)


def test_a_pass_needs_no_waiver_and_takes_none() -> None:
    rows = (row(0, 100), *good_controls())
    found = asked(verdict_of(*rows), rows, waiver())
    assert (
        not found.opens and found.waived == found.uncovered == () and "nothing of that has failed" in found.ignored[0]
    )


def test_what_the_policy_calls_too_little_assessed_cannot_be_waived() -> None:
    """99 of 100 cases that broke are no risk that was measured; a FAIL that holds whatever they were is."""
    rows = (row(0, 1, 99), *good_controls())
    found = asked(verdict_of(*rows), rows, waiver())
    assert (
        not found.opens and "only 1 of 100 planned cases were assessed, and the policy asks for" in found.uncovered[0]
    )
    failed = (row(50, 0, 50), *good_controls())
    assert verdict_of(*failed).status is VerdictStatus.FAIL and asked(verdict_of(*failed), failed, waiver()).opens


CELLS = (Selection(concept="ring"), Selection(scenario="text"), Selection(judge="other"))


@given(
    hits=st.integers(0, 60),
    unassessed=st.integers(0, 60),
    lost=st.integers(0, 60),
    control=st.integers(0, 4),
    seen=st.integers(0, 20),
    selection=st.sampled_from(CELLS),
)
def test_turning_results_into_errors_never_opens_the_gate(
    hits: int, unassessed: int, lost: int, control: int, seen: int, selection: Selection
) -> None:
    """Open is PASS, or waived: an error in the cell or in a control makes neither of what was shut."""

    def opened(rows: Sequence[CrrRow]) -> bool:
        verdict = verdict_of(*rows)
        return verdict.status is VerdictStatus.PASS or asked(verdict, rows, waiver(selection)).opens

    hidden = min(hits, lost)
    before = [row(hits, 60 - hits, unassessed), *good_controls()]
    after = [row(hits - hidden, 60 - hits, unassessed + hidden), *good_controls()]
    if control:
        touched = after[control]
        left = min(seen, touched.assessed)
        after[control] = dataclasses.replace(
            touched, assessed=left, unassessed=touched.planned - left, hits=min(left, touched.hits)
        )
    assert opened(before) or not opened(after)
