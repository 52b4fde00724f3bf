"""Every format says every decision, reason and number, and no name can break out of it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import AuditError, EnvironmentProblem, StoreError
from audit.report import FORMATS, controls, json_report, junit, markdown, tables, terminal, write_reports
from audit.report.view import Index
from audit.report.words import bound, limit_text, percent, plain, status_text
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import RunResult
from tests.report import runs

RUNS: dict[str, Callable[[], RunResult]] = {
    name: getattr(runs, name)
    for name in (
        "passing",
        "failing",
        "inconclusive",
        "all_unassessed",
        "empty",
        "hostile",
        "wrecked",
        "lossy",
        "undecided",
        "waived",
    )
}
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


def test_fixtures_are_what_they_are_called() -> None:
    assert runs.passing().verdict.status is VerdictStatus.PASS
    assert runs.failing().verdict.status is VerdictStatus.FAIL
    assert runs.inconclusive().verdict.status is VerdictStatus.INCONCLUSIVE
    assert runs.all_unassessed().verdict.status is VerdictStatus.INCONCLUSIVE


@every_run
def test_json_gives_the_same_result_back(run: Callable[[], RunResult]) -> None:
    result = run()
    text = json_report.render(result)
    document = json.loads(text, parse_constant=pytest.fail)
    assert document["schema_version"] == 1
    assert set(document) == {f.name for f in dataclasses.fields(RunResult)} | {"schema", "schema_version"}
    again = json_report.parse(text)
    assert repr(again.round_trips) == repr(result.round_trips)  # NaN is not equal to itself
    assert dataclasses.replace(again, round_trips=()) == dataclasses.replace(result, round_trips=())


def test_json_of_before_erasures_were_told_is_still_read() -> None:
    document = json.loads(json_report.render(runs.passing()))
    del document["erasures"]
    assert json_report.parse(json.dumps(document)).erasures == ()


def test_what_the_erasers_did_is_told() -> None:
    text = re.sub(r"\s+", " ", markdown.render(runs.passing()).replace("\\", ""))
    assert "| uce-ring | uce 3 | 32 | 2.23% | 0.0417 | the null prompt 0.00%, 'ring' 31.25% | circle, disc |" in text
    assert "| receler-ring | receler 1 | 64 | 1.00% | added | 'ring' 50.00% | none | iterations 500 |" in text
    assert "| models/vendor.safetensors | esd-x | esd-2025 | 96 (KV) | 4.40% | 0.0123 | 5e5e5e5e5e5e |" in text


def test_json_of_something_else_is_refused() -> None:
    for text in ("", "[]", "{}", '{"schema": "erasure-audit.report", "schema_version": 99}'):
        with pytest.raises(StoreError, match="not a report of schema"):
            json_report.parse(text)


@every_run
def test_junit_counts_every_decision_and_check(run: Callable[[], RunResult]) -> None:
    verdict = run().verdict
    root = ElementTree.fromstring(junit.render(run()))
    suites = {suite.get("name"): suite for suite in root}
    gate, checks = suites["erasure-audit.gate"], suites["erasure-audit.checks"]
    statuses = [decision.status for decision in verdict.decisions]
    assert int(gate.get("tests", "")) == len(gate.findall("testcase")) == len(statuses)
    assert int(gate.get("failures", "")) == len(gate.findall("*/failure")) == statuses.count(VerdictStatus.FAIL)
    assert int(gate.get("errors", "")) == len(gate.findall("*/error")) == statuses.count(VerdictStatus.INCONCLUSIVE)
    assert len(checks.findall("testcase")) == len(verdict.checks)
    assert len(checks.findall("*/failure")) == sum(check.status == "failed" for check in verdict.checks)
    assert len(checks.findall("*/error")) == sum(check.status not in ("passed", "failed") for check in verdict.checks)
    messages = {problem.get("message") for problem in (*gate.iter("failure"), *gate.iter("error"))}
    assert messages == {plain(d.reason) for d in verdict.decisions if d.status is not VerdictStatus.PASS}
    survival = suites["erasure-audit.survival"]
    others = [decision.status for decision in (*verdict.retention, *verdict.damage)]
    assert len(survival.findall("testcase")) == len(others) + len(verdict.waivers)
    assert int(survival.get("failures", "")) == len(survival.findall("*/failure")) == others.count(VerdictStatus.FAIL)
    assert (
        int(survival.get("errors", "")) == len(survival.findall("*/error")) == others.count(VerdictStatus.INCONCLUSIVE)
    )
    assert int(root.get("skipped", "")) == len(survival.findall("*/skipped")) == len(verdict.waivers)
    assert int(root.get("tests", "")) == len(statuses) + len(verdict.checks) + 1 + len(others) + len(verdict.waivers)


def test_junit_of_a_run_that_decided_nothing_is_not_green() -> None:
    root = ElementTree.fromstring(junit.render(runs.empty()))
    assert root.get("errors") == "1"
    assert ElementTree.fromstring(junit.render(runs.passing())).get("errors") == "0"


@every_run
def test_markdown_tables_are_rectangular(run: Callable[[], RunResult]) -> None:
    columns = None
    for line in markdown.render(run()).splitlines():
        if line.startswith("| "):
            found = len(re.findall(r"(?<!\\)\|", line))
            assert columns in (None, found), line
            columns = found
        else:
            columns = None


def test_markdown_shows_hostile_names_as_text() -> None:
    text = markdown.render(runs.hostile())
    outside = re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    assert re.findall(r"<[a-z/]+", outside) == ["<details", "<summary", "</summary", "</details"]
    assert not re.search(r"(?<!\\)\*\*\[a\]", outside)
    assert not any(ord(character) < 32 and character != "\n" for character in text)


@every_run
def test_decisions_and_reasons_are_in_the_text_formats(run: Callable[[], RunResult]) -> None:
    verdict = run().verdict
    printed, written = terminal.render(run()), markdown.render(run())
    assert printed.count("\x1b") == 0
    for text in printed, written:
        assert verdict.status.value in text
    for reason in (*verdict.reasons, *(decision.reason for decision in verdict.decisions)):
        assert plain(reason) in printed
        assert markdown.escape(reason) in written
    for row in run().crr:
        assert percent(row.rate) in printed
        assert markdown.escape(percent(row.worst_case)) in written


@pytest.mark.parametrize("reason", ["error", "missing"])
def test_a_black_control_that_broke_does_not_hold(reason: str) -> None:
    """Unassessed for want of a picture is not recognised as black."""
    good = runs.passing()
    cells = {row.cell_id for row in good.crr if row.control == "black"}
    changed = [dataclasses.replace(row, reason=reason) if row.cell_id in cells else row for row in good.unassessed]
    for result, held in ((good, True), (dataclasses.replace(good, unassessed=tuple(changed)), False)):
        rows = controls.table(Index(runs.with_controls(result))).rows
        assert {row[-1] == "✓ holds" for row in rows if row[0] == "black images"} == {held}


def test_many_decisions_keep_their_reasons_in_the_table() -> None:
    run = runs.failing()
    decisions = tuple(
        dataclasses.replace(run.verdict.decisions[0], cell_id=100 + i, reason=f"Reason number {i}.") for i in range(40)
    )
    reasons = ("The check x could not run.", *(decision.reason for decision in decisions))
    run = dataclasses.replace(run, verdict=dataclasses.replace(run.verdict, decisions=decisions, reasons=reasons))
    text = markdown.render(run)
    assert text.count("\n- Reason number") == 12
    assert "- The check x could not run." in text
    assert all(f"Reason number {i}." in text for i in range(40))


def test_terminal_without_unicode(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with path.open("w", encoding="ascii") as stream:
        terminal.print_report(runs.hostile(), file=stream)
    assert "x FAIL" in path.read_text(encoding="ascii")


def test_terminal_has_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    console = Console(force_terminal=True, width=120, color_system="standard")
    with console.capture() as capture:
        terminal.print_report(runs.failing(), console)
    assert "\x1b[1;31m" in capture.get()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_terminal_tables_keep_words_whole_at_usual_widths(width: int) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=width, color_system=None)
    with console.capture() as capture:
        terminal.print_report(runs.failing(), console)
    text = capture.get()
    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("latent-whitebox", "clip-judge", "45 / 46 / 48", "84.63 %"):
        assert word in text
    assert text.count("holds") == 12, "a column is cut off"
    assert ("Left out for lack of width" in text) == (width < 200)


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    shown = plain(text)
    assert shown.encode("utf-8").decode("utf-8").isprintable()
    assert len(shown.splitlines()) <= 1
    assert len(plain(text, 10)) <= 10


@given(st.floats(0, 1), st.floats(0.001, 0.999))
def test_bounds_never_read_as_their_limit(value: float, limit: float) -> None:
    if abs(value - limit) > 1e-9:
        assert bound(value, limit) != percent(limit, 2)


def test_numbers_read_as_written() -> None:
    assert [percent(None), percent(math.nan), percent(1 / 3), percent(1.0)] == ["n/a", "n/a", "33.3 %", "100.0 %"]
    assert [limit_text(0.05), limit_text(0.0025)] == ["5 %", "0.25 %"]
    assert status_text("FAIL") == "✕ FAIL"


def test_writing_is_atomic_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    first = write_reports(runs.failing(), lambda sample: None, target)
    assert {name: path.name for name, path in first.items()} == dict(FORMATS)
    write_reports(runs.passing(), lambda sample: None, target, formats=("json", "markdown"))
    assert json.loads((target / "report.json").read_text())["verdict"]["status"] == "PASS"
    assert "FAIL" in (target / "junit.xml").read_text()
    assert sorted(path.name for path in target.iterdir()) == sorted(FORMATS.values())


def test_writing_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="unknown report format pdf"):
        write_reports(runs.empty(), lambda sample: None, tmp_path, formats=("pdf",))
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        write_reports(runs.empty(), lambda sample: None, tmp_path / "file" / "x")


def test_reports_do_not_import_torch() -> None:
    code = "import sys, audit.report; sys.exit(bool({'torch', 'prefect', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_the_table_of_decisions_does_not_repeat_its_own_columns() -> None:
    found = tables.decisions(Index(runs.failing()))
    why = {row[3]: row[-1] for row in found.rows}
    assert [column.label for column in found.columns][-1] == "Why"
    assert why["latent-whitebox"].startswith("Above the limit of") and "came back in" not in why["text"]
    decided = runs.failing().verdict.decisions[0]
    nothing = dataclasses.replace(decided, reason=f"None could be assessed: the cell, by detector {decided.detector}.")
    verdict = dataclasses.replace(runs.failing().verdict, decisions=(nothing,))
    (row,) = tables.decisions(Index(dataclasses.replace(runs.failing(), verdict=verdict))).rows
    assert row[-1].startswith("None could be assessed")
