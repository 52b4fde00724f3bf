"""What the dashboard says of waivers, from the very sentences that a gate puts on record."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

from audit.dashboard.waiving import waived_cell, waived_in, waived_run
from audit.verdict.decisions import VerdictStatus
from audit.verdict.waivers import Selection, Waived
from tests.dashboard.conftest import NOW
from tests.gate_rows import verdict_of
from tests.verdict.test_waivers import FAILING, waiver

LATER = dt.datetime(2026, 12, 31, tzinfo=dt.UTC)


def test_the_end_of_each_waiver_is_read_from_the_gate_s_own_sentence() -> None:
    (decision,) = verdict_of(*FAILING).decisions
    ends = [dt.datetime(2026, 12, day, 23, 59, tzinfo=dt.UTC) for day in (24, 20)]
    other = dataclasses.replace(decision, defence="another | one", status=VerdictStatus.INCONCLUSIVE)
    waived = [
        Waived(each, waiver(Selection(), until=until)) for each, until in zip((decision, other), ends, strict=True)
    ]
    opened_by = json.dumps([str(each) for each in waived])
    rows = [{**dataclasses.asdict(each.decision), "opened_by": opened_by} for each in waived]
    for row in rows:
        row["status"] = row["status"].value
    assert [waived_cell(row, NOW) for row in rows] == ["waived until 2026-12-24", "waived until 2026-12-20"]
    assert waived_cell(rows[0], LATER) == "waiver expired 2026-12-24"
    assert waived_run(opened_by, NOW) == "waived until 2026-12-20"
    assert waived_in(["retention: none"], opened_by, NOW) == "retention, gate opened, waived until 2026-12-20"
    assert waived_cell({**rows[0], "status": "PASS"}, NOW) == ""


def test_without_waivers_nothing_is_said_and_a_strange_sentence_is_no_trouble() -> None:
    row = {"status": "FAIL", "concept": "ring", "defence": "uce", "scenario": "text", "detector": "clip"}
    for stored in ("[]", None, "no json", '{"a": 1}'):
        assert waived_cell({**row, "opened_by": stored}, NOW) == waived_run(stored, NOW) == ""
    assert waived_in([], "[]", NOW) == "nothing"
    assert waived_cell({**row, "opened_by": '["what is this"]'}, NOW) == waived_run('["what is this"]', NOW) == "waived"
