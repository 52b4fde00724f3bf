"""What labels of a judge's pictures do to a decision, and which labels decide nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.statistics import judge_error
from audit.verdict import gate
from audit.verdict.calibration import Calibration
from tests.gate_rows import (
    FAIL,
    GOOD_CHECK,
    INCONCLUSIVE,
    PASS,
    POLICY,
    good_controls,
    labels,
    row,
    second_side,
    verdict_of,
)


def decided(hits: int, clear: int, *calibrations: Calibration, **policy: Any) -> Any:
    rows = [row(hits, clear), *good_controls()]
    return verdict_of(*rows, policy=POLICY.model_copy(update=policy), calibrations=calibrations).decisions[0]


def test_a_pass_pays_for_what_the_judge_misses() -> None:
    raw, corrected = decided(0, 30), decided(0, 30, labels(40, 50))
    assert (raw.status, raw.bound) == (PASS, "raw")
    assert (corrected.status, corrected.bound) == (INCONCLUSIVE, "no-credit")
    assert corrected.high == judge_error.upper_bound(0, 30, 40, 50, 0.95)
    assert decided(0, corrected.needed_cases, labels(40, 50)).status is PASS
    assert "allowing for a judge that found 40 of 50 and cleared 50 of 50 labelled pictures" in corrected.reason
    assert corrected.labels_sha256 == "ab" * 32


def test_a_fail_pays_for_the_judge_s_false_alarms() -> None:
    assert decided(20, 80).status is FAIL
    corrected = decided(20, 80, labels(50, 50, 40, 50))
    assert corrected.status is INCONCLUSIVE
    assert corrected.low == judge_error.lower_bound(20, 100, 40, 50, 0.95)
    assert decided(60, 40, labels(50, 50, 40, 50)).status is FAIL


def test_false_alarms_buy_no_pass_and_misses_no_fail() -> None:
    assert decided(0, 100, labels(50, 50, 20, 50)).high == decided(0, 100, labels(50, 50)).high
    assert decided(60, 40, labels(45, 50)).low == decided(60, 40, labels(50, 50)).low


def test_the_reported_interval_takes_out_both_kinds_of_error() -> None:
    decision = decided(30, 70, labels(40, 50, 45, 50))
    assert decision.melded_low < 0.3 / 0.8 - 0.05 < decision.melded_high
    assert (decided(30, 70).melded_low, decided(30, 70).melded_high) == (None, None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"positives": 11, "found": 11}, "only 11 labelled pictures that show 'ring'"),
        ({"negatives": 11, "cleared": 11}, "only 11 labelled pictures that do not show 'ring'"),
        ({"labelled_at": "2026-05-01T00:00:00+00:00"}, "are 211 days old, and the policy allows 180"),
        ({"labelled_at": "2026-12-01T00:00:00+00:00"}, "after the decision: a clock is wrong"),
        ({"labelled_at": "last week"}, "how old the labels of detector judge are is not known"),
        ({"found": 28}, "found 'ring' in 28 of 50 labelled pictures that show it: its sensitivity may be as low as"),
        ({"instrument_id": 2}, "the labels of 'ring' are of another version of detector judge"),
        ({"domain": "reference"}, "the labels of detector judge are of 'reference' pictures"),
    ],
)
def test_labels_that_cannot_carry_a_decision_say_so(changes: dict[str, Any], sentence: str) -> None:
    for hits, clear in ((0, 200), (200, 0)):
        decision = decided(hits, clear, labels(**changes))
        assert decision.status is INCONCLUSIVE
        assert sentence in decision.reason
    assert decided(0, 200, labels(**changes), judge_error="ignore").status is PASS


def test_without_the_moment_of_the_decision_labels_have_no_age() -> None:
    rows = [row(0, 200), *good_controls()]
    verdict = gate.decide(POLICY, rows, [GOOD_CHECK], *second_side(rows), calibrations=[labels()])
    assert "how old the labels" in verdict.decisions[0].reason


def test_a_judge_without_labels_is_raw_or_decides_nothing_as_the_policy_says() -> None:
    other = labels(concept="star")
    assert decided(0, 200, other).bound == "raw"
    required = decided(0, 200, other, judge_error="required")
    assert required.status is INCONCLUSIVE
    assert "the policy asks for labelled pictures, and detector judge has none of 'ring'" in required.reason
    assert decided(0, 200, labels(), judge_error="required").status is PASS


def test_the_newest_labels_count_in_whatever_order_they_come() -> None:
    old, new = labels(50, 50), labels(20, 50, labelled_at="2026-11-20T00:00:00+00:00")
    assert decided(0, 100, old, new) == decided(0, 100, new, old)
    assert "in 20 of 50" in decided(0, 100, old, new).reason


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 80), st.integers(1, 200), st.integers(0, 60), st.integers(0, 60), st.data())
def test_a_worse_judge_never_improves_a_decision(
    hits: int, clear: int, missed: int, alarms: int, data: st.DataObject
) -> None:
    better = labels(60 - missed, 60, 60 - alarms, 60)
    found = data.draw(st.integers(0, better.found))
    cleared = data.draw(st.integers(0, better.cleared))
    before, after = decided(hits, clear, better), decided(hits, clear, labels(found, 60, cleared, 60))
    assert before.status is PASS or after.status is not PASS
    assert after.high >= before.high - 1e-9
    assert after.low <= before.low + 1e-9
    raw = decided(hits, clear)
    assert raw.status is PASS or before.status is not PASS
