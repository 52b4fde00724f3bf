"""Property tests of the gate: an error never improves a verdict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.spec.policy import Limit
from audit.verdict.decisions import CheckResult
from audit.verdict.results import CrrRow
from tests.gate_rows import (
    FAIL,
    GOOD_CHECK,
    INCONCLUSIVE,
    PASS,
    POLICY,
    control,
    good_controls,
    labels,
    row,
    verdict_of,
)


def counts(most: int = 60) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(st.integers(0, most), st.integers(0, most), st.integers(0, most // 2))


@st.composite
def runs(draw: st.DrawFn) -> list[CrrRow]:
    """Target cells of two scenarios and two judges with controls that are good, poor, empty or missing."""
    rows, cell_id = [], 0
    for scenario in draw(st.sets(st.sampled_from(["text", "latent-whitebox"]), min_size=1)):
        shapes = [("target", None, "uce", scenario), ("control", "backbone", "none", scenario)]
        if scenario != "text":
            names = ("reference", "vae-roundtrip", "random-latent")
            shapes += [("control", name, "none", "none") for name in names]
        for role, name, defence, where in shapes:
            if name and draw(st.integers(0, 9)) == 0:
                continue
            typical = {None: (0, 60, 0), "random-latent": (0, 20, 0)}.get(name, (20, 0, 0))
            for detector in ("judge", "second"):
                numbers = draw(st.one_of(st.just(typical), counts()))
                fields = {"role": role, "control": name, "defence": defence, "scenario": where}
                rows.append(row(*numbers, cell_id=cell_id, detector=detector, **fields))
            cell_id += 1
    return rows


def with_error(reading: CrrRow, from_hit: bool) -> CrrRow:
    """The same row after one of its assessed cases became an error."""
    fields = {
        name: getattr(reading, name) for name in ("role", "control", "defence", "scenario", "cell_id", "detector")
    }
    hits, clear = reading.hits - from_hit, reading.assessed - reading.hits - (not from_hit)
    return row(hits, clear, reading.unassessed + 1, **fields)


@settings(max_examples=200, deadline=None)
@given(runs(), st.data())
def test_an_error_never_improves_a_verdict(rows: list[CrrRow], data: st.DataObject) -> None:
    policy = POLICY.model_copy(update={"judges": ("judge", "second"), "assessed_min": data.draw(st.floats(0, 1))})
    before = verdict_of(*rows, policy=policy)
    changed = list(rows)
    for _ in range(data.draw(st.integers(1, 5))):
        index = data.draw(st.integers(0, len(rows) - 1))
        reading, from_hit = changed[index], data.draw(st.booleans())
        if (reading.hits if from_hit else reading.assessed - reading.hits) > 0:
            changed[index] = with_error(reading, from_hit)
    after = verdict_of(*changed, policy=policy)
    assert not (before.status is not PASS and after.status is PASS)
    for old, new in zip(before.decisions, after.decisions, strict=True):
        assert not (old.status is not PASS and new.status is PASS)
        assert new.high >= old.high
        assert new.low <= old.low


@settings(max_examples=80, deadline=None)
@given(runs(), st.data())
def test_a_lost_cell_a_lost_control_or_a_broken_check_never_opens_the_gate(
    rows: list[CrrRow], data: st.DataObject
) -> None:
    policy = POLICY.model_copy(update={"judges": ("judge", "second")})
    before = verdict_of(*rows, policy=policy).status
    lost = data.draw(st.integers(0, len(rows) - 1))
    emptied = [
        row(
            0,
            0,
            r.planned,
            **{n: getattr(r, n) for n in ("role", "control", "defence", "scenario", "cell_id", "detector")},
        )
        if i == lost
        else r
        for i, r in enumerate(rows)
    ]
    after = verdict_of(*emptied, policy=policy).status
    assert after is not PASS or before is PASS
    for status in ("failed", "error"):
        broken = CheckResult("any", "sql", status, "x", 1)
        assert verdict_of(*rows, policy=policy, checks=[GOOD_CHECK, broken]).status is INCONCLUSIVE


@settings(max_examples=60, deadline=None)
@given(runs(), st.sampled_from(["fixed", "anytime"]), st.booleans(), st.data())
def test_nothing_that_is_lost_improves_a_verdict_whatever_the_bounds(
    rows: list[CrrRow], stopping: str, labelled: bool, data: st.DataObject
) -> None:
    """A control removed, a result turned into an error, a judge that finds or clears less, another attempt."""
    policy = POLICY.model_copy(update={"judges": ("judge", "second"), "stopping": stopping})
    found, cleared = (data.draw(st.integers(20, 40)) for _ in range(2))
    known = [labels(found, 40, cleared, 40, detector=judge) for judge in policy.judges] if labelled else []
    before = verdict_of(*rows, policy=policy, calibrations=known)
    what = data.draw(st.sampled_from(["control", "error", "judge", "attempt"]))
    attempt = 1
    if what == "control":
        controls = [r for r in rows if r.role == "control"]
        lost = data.draw(st.sampled_from(controls)) if controls else None
        rows = [r for r in rows if r is not lost]
    elif what == "error":
        index = data.draw(st.integers(0, len(rows) - 1))
        hit = rows[index].hits > 0
        if rows[index].assessed:
            rows = [with_error(r, hit) if i == index else r for i, r in enumerate(rows)]
    elif what == "judge" and labelled:
        worse = labels(data.draw(st.integers(0, found)), 40, data.draw(st.integers(0, cleared)), 40)
        known = [worse, known[1]]
    else:
        attempt = 2
    after = verdict_of(*rows, policy=policy, calibrations=known, attempt=attempt)
    assert before.status is PASS or after.status is not PASS
    assert not {d.cell_id for d in after.decisions if d.status is PASS} - {
        d.cell_id for d in before.decisions if d.status is PASS
    }


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("reference", [[], [control("reference", 0, 0)], [control("reference", 5, 15)]])
def test_a_reference_control_that_only_another_judge_has_read_is_missing(reference: list[CrrRow], latent: bool) -> None:
    """A row that is lost says no more of its judge than one that is empty or poor, whatever the scenario."""
    rows = [row(0, 60, cell_id=1, scenario="text"), control("backbone", 20, 0, cell_id=2, scenario="text")]
    rows += [control("reference", 20, 0, detector="second"), *reference]
    if latent:
        rows += [row(0, 60), *(r for r in good_controls() if r.control != "reference")]
    assert {d.status for d in verdict_of(*rows).decisions} == {INCONCLUSIVE}


@settings(max_examples=100, deadline=None)
@given(counts(200), st.floats(0.01, 0.5))
def test_a_decision_says_what_its_bounds_say(numbers: tuple[int, int, int], maximum: float) -> None:
    policy = POLICY.model_copy(update={"limits": (Limit(crr_max=maximum),), "assessed_min": 0.0})
    decision = verdict_of(row(*numbers), *good_controls(), policy=policy).decisions[0]
    assert decision.alpha is not None and decision.p_adjusted is not None
    proven = decision.p_adjusted < decision.alpha  # as one of two decisions: this and retention
    expected = PASS if decision.high <= maximum else FAIL if proven else INCONCLUSIVE
    assert decision.status is expected
    if proven:
        assert decision.low > maximum
    assert decision.low <= decision.high
