"""Commands that need no finished run: what is printed to be typed, and db on synthetic journals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from audit.storage.journal import Journal
from flows import console, verdicts
from flows.cli import app, main
from flows.console import Format
from tests.report import runs
from tests.synthetic import Run


@pytest.mark.parametrize("reports", [{}, {"html": Path("report.html")}])
def test_the_next_command_can_be_typed_as_it_stands(
    reports: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = dataclasses.replace(runs.passing(), unassessed=())
    verdicts.print_result(result, reports, Format.TERMINAL, "my runs")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next ")]
    _, program, name, *arguments = shlex.split(line)
    assert (program, name) == ("erasure-audit", "report")
    group: Any = typer.main.get_command(app)
    given = group.commands[name].make_context(line, arguments).params
    assert (given["run_id"], given["root"]) == (result.run_id, "my runs")
    assert given["output"] == ("markdown" if reports else "terminal")


@pytest.mark.parametrize("asked", [["--json"], ["--format", "json"], ["--format=json"]])
def test_an_interrupted_run_prints_one_json_document_that_says_how_to_go_on(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def interrupted(**_: Any) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("flows.prefect_check.require_prefect", lambda: None)
    monkeypatch.setattr("flows.temporary_server.prefect_api", interrupted)
    root = str(tmp_path / "my runs")
    assert main(["resume", "demo-1", "--root", root, *asked]) == 130
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["exit_code"] == 130
    assert f"resume with: erasure-audit resume demo-1 --root '{root}'" in found["error"]
    assert found["error"] in shown.err and "error: " not in shown.err


def test_any_other_command_that_is_interrupted_prints_its_document_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audit.locations.storage_root", interrupted)
    assert main(["gate", "demo-1", "--json"]) == 130
    assert json.loads(capsys.readouterr().out) == {"error": "interrupted", "exit_code": 130}


def test_commands_are_printed_by_path_where_the_shell_does_not_know_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "b in" / "erasure-audit"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["db", "sql", "select 1", "--root", str(tmp_path)]) == 2
    assert f"make one with: '{script}' db rebuild" in capsys.readouterr().err
    assert (
        console.runnable("the version of erasure-audit that planned it")
        == "the version of erasure-audit that planned it"
    )
    monkeypatch.setenv("PATH", str(script.parent))
    assert console.runnable("erasure-audit db rebuild") == "erasure-audit db rebuild"


def test_every_command_is_known_to_what_prints_commands() -> None:
    top: Any = typer.main.get_command(app)
    assert sorted(console.COMMANDS) == sorted(top.commands)


def test_db_sql_answers_from_what_was_just_consolidated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(tmp_path), "--json"]
    for number in (1, 2):
        Run(f"run-{number}").write(Journal(str(tmp_path)))
        assert main(["db", "consolidate", *where]) == 0
        capsys.readouterr()
        assert main(["db", "sql", "select count(*) as runs from mart_runs", *where]) == 0
        assert json.loads(capsys.readouterr().out) == [{"runs": number}]


def test_db_lists_runs_that_cannot_be_read_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(str(tmp_path))
    for number in range(4):  # the spec in these plans is not one of this version
        Run(f"run-{number}").write_plan(journal)
    journal.put_run("run-1", "plan.json", b'{"cut')
    journal.put_run("run-2", "units.parquet", b"PAR1")
    assert main(["db", "runs", "--root", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == ["run-0", "run-1", "run-2", "run-3"]
    assert [row["problem"] and row["problem"][:31] for row in rows] == [
        None, "the plan of run 'run-1' is dama", "the plan of run 'run-2' is dama", None,
    ]  # fmt: skip
    assert [(row["cases"], row["units"], row["complete"]) for row in (rows[0], rows[1])] == [(4, 2, 0), (None,) * 3]
    assert main(["db", "runs", "--root", str(tmp_path)]) == 0
