"""The command line: exit codes, formats, one clear message for a mistake, and quick start-up."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from audit.plan.document import read_plan
from audit.report import FORMATS
from audit.storage.journal import Journal
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.results import RunResult
from flows.cli import main
from flows.commands import results
from tests.flows.audits import finish_run, tiny_spec


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run and where it is."""

    spec: Path
    root: Path
    run_id: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Done:
    folder = tmp_path_factory.mktemp("done")
    spec = tiny_spec(folder, tiny_folder)
    return Done(spec, folder / "runs", finish_run(spec, folder / "runs"))


@pytest.fixture(scope="module")
def result(done: Done) -> RunResult:
    return results._conclude(done.run_id, str(done.root), None, None)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


_LAZY = """
import sys
from flows.cli import main
from flows.commands import results
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "prefect", "diffusers") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["db", "runs", "--root", "/nowhere/at/all"]])
def test_help_and_listing_import_nothing_heavy(arguments: list[str]) -> None:
    finished = python(_LAZY, *arguments)
    assert finished.returncode == 0, finished.stderr


def test_plan_imports_no_torch_and_writes_nothing(done: Done, tmp_path: Path) -> None:
    finished = python(_LAZY, "plan", str(done.spec), "--root", str(tmp_path / "fresh"))
    assert finished.returncode == 0, finished.stderr
    assert "unknown: --measure times this machine" in finished.stdout
    assert not (tmp_path / "fresh").exists()


def test_plan_knows_what_is_done_and_what_it_cost(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(done.spec), "--root", str(done.root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(row["pending"] == 0 for row in document["work"])
    assert document["rate_basis"] == "earlier units on cpu"
    assert document["erasers"] == {"uce": "uce, 1 model, one for each concept (ring)"}
    (text,) = [row for row in document["proofs"] if row["scenario"] == "text"]
    assert text["zero hits prove CRR <="] == pytest.approx(1 - 0.05 ** (1 / 3), abs=1e-3)
    assert text["can pass"] == "no, needs 9 cases"
    assert text["chance to pass"] == 0.0
    power = document["power"]
    assert (power["rate"], power["agreeing"], power["cells"]) == (0.01, 0.0, len(document["proofs"]))
    assert power["cases"] > 9


def test_plan_says_how_likely_a_model_passes_all_of_its_cells(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(done.spec), "--root", str(done.root), "--true-rate", "0.002"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "The chance to pass is that of a cell whose true CRR is 0.002. A model with that rate in every cell" in printed
    )
    assert "with a chance of 0 %" in printed and "cases a cell it would be 90 %" in printed


def test_no_command_enlarges_the_plan_of_a_run(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bounds for a fixed number of cases hold because of this: a spec with more cases can only be a new run.

    A resume keeps the plan too: tests/flows/test_prefect.py.
    """
    spec = yaml.safe_load(done.spec.read_text())
    spec["scenarios"][0]["cases"] = 2 * spec["scenarios"][0]["cases"]
    larger = tmp_path / "larger.yaml"
    larger.write_text(yaml.safe_dump(spec))
    before = read_plan(Journal(str(done.root)), done.run_id)
    for command in (["resume", done.run_id, str(larger)], ["resume", done.run_id, "--cases", "40"]):
        assert main([*command, "--root", str(done.root)]) == 2
    assert main(["gate", done.run_id, "--policy", str(larger), "--root", str(done.root)]) in (0, 3, 4)
    capsys.readouterr()
    after = read_plan(Journal(str(done.root)), done.run_id)
    assert after.cases.equals(before.cases) and [c.cell.planned for c in after.cells] == [
        c.cell.planned for c in before.cells
    ]


def test_plan_measures_when_asked(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", str(done.spec), "--root", str(tmp_path), "--measure", "--device", "cpu", "--batch-size", "2"]
    assert main(arguments) == 0
    assert re.search(r"time +\d+ s.*measured on cpu", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("status", "code"), [(VerdictStatus.PASS, 0), (VerdictStatus.FAIL, 3), (VerdictStatus.INCONCLUSIVE, 4)]
)
@pytest.mark.parametrize("output", ["terminal", "markdown", "json", "junit"])
def test_the_exit_code_is_the_verdict_in_every_format(
    status: VerdictStatus,
    code: int,
    output: str,
    result: RunResult,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decided = dataclasses.replace(result, verdict=Verdict(status, ("a reason",), (), ()))
    monkeypatch.setattr(results, "_conclude", lambda *arguments: decided)
    assert main(["gate", result.run_id, "--format", output, "--no-record"]) == code
    shown = capsys.readouterr().out
    if output == "json":
        json.loads(shown)
    elif output == "junit":
        ElementTree.fromstring(shown)
    else:
        assert status.value in shown


def test_gate_puts_its_decision_on_record(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    folder = done.root / "runs" / done.run_id / "decisions"
    before = len(list(folder.glob("*.json")))
    main(["gate", done.run_id, "--root", str(done.root), "--no-record"])
    assert len(list(folder.glob("*.json"))) == before
    main(["gate", done.run_id, "--root", str(done.root)])
    acts = [json.loads(path.read_text())["record"] for path in sorted(folder.iterdir())]
    assert len(acts) == before + 1 and acts[-1]["command"] == "gate"
    capsys.readouterr()
    assert main(["db", "verify", done.run_id, "--root", str(done.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] and told["decisions"] == before + 1 and told["changes"] == []


def test_a_changed_unit_is_named_by_gate_report_and_verify(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By resume too, which needs a server: tests/flows/test_prefect.py."""
    root = tmp_path / "copy"
    shutil.copytree(done.root, root)
    unit = next((root / "units" / "detect").rglob("*.parquet"))
    unit.write_bytes(unit.read_bytes()[:-1] + b"x")
    for command in ("gate", "report"):
        assert main([command, done.run_id, "--root", str(root)]) == 5
        assert unit.name in capsys.readouterr().err
    assert main(["db", "verify", done.run_id, "--root", str(root)]) == 5
    assert f"changed: {root}/units/detect/{unit.parent.name}/{unit.name}" in capsys.readouterr().out


def test_report_writes_all_files_and_says_where(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["report", done.run_id, "--root", str(done.root)])
    shown = capsys.readouterr().out
    assert code in (3, 4)
    folder = done.root / "reports" / done.run_id
    assert f"report  {folder / 'report.html'}" in shown
    assert {path.name for path in folder.iterdir()} == set(FORMATS.values())


def test_showing_sensitive_pictures_is_recorded(done: Done, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["report", done.run_id, "--root", str(done.root), "--reports", str(tmp_path), "--show-sensitive"])
    (record,) = (done.root / "runs" / done.run_id).glob("shown-*.json")
    assert json.loads(record.read_text())["report"] == str(tmp_path)
    assert "shown unblurred" in caplog.text


def test_gate_decides_under_another_policy(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = {"version": "other", "judges": ["nude"], "limits": [{"crr_max": 0.9}], "confidence": 0.9}
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(policy))
    main(["gate", done.run_id, "--root", str(done.root), "--policy", str(path), "--json"])
    assert {decision["limit"] for decision in json.loads(capsys.readouterr().out)["verdict"]["decisions"]} == {0.9}


def test_gate_counts_the_stored_scores_under_other_thresholds(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.yaml"
    hits = []
    for threshold in (0.25, 1.0):
        policy = {
            "version": "other",
            "judges": ["nude"],
            "limits": [{"crr_max": 0.9}],
            "thresholds": {"nude": threshold},
        }
        path.write_text(yaml.safe_dump(policy))
        main(["gate", done.run_id, "--root", str(done.root), "--policy", str(path), "--json"])
        rows = json.loads(capsys.readouterr().out)["crr"]
        assert {row["threshold"] for row in rows} == {threshold}
        hits.append(sum(row["hits"] for row in rows))
    assert hits[0] >= hits[1] == 0


def test_gate_refuses_thresholds_below_the_floor_and_unknown_judges(done: Done, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for change in ({"thresholds": {"nude": 0.1}}, {"judges": ["nobody"]}):
        policy = {"version": "other", "judges": ["nude"], "limits": [{"crr_max": 0.9}], **change}
        path.write_text(yaml.safe_dump(policy))
        assert main(["gate", done.run_id, "--root", str(done.root), "--policy", str(path)]) == 2


def test_db_lists_rebuilds_consolidates_publishes_and_answers(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--root", str(done.root), "--json"]

    def ask(*arguments: str) -> Any:
        assert main(["db", *arguments, *where]) == 0
        return json.loads(capsys.readouterr().out)

    (row,) = ask("runs")
    assert (row["run"], row["complete"]) == (done.run_id, row["units"])
    query = "select detector, sum(hits) as hits, sum(planned) as planned from mart_crr group by all order by all"
    before = ask("sql", query)
    assert ask("rebuild")["runs"] == 1
    assert ask("sql", query) == before
    assert ask("consolidate", done.run_id)["runs"] == 1
    assert Path(ask("publish")["published"]).parent == done.root / "db" / "published"
    assert Path(ask("publish", str(tmp_path / "bi"))["published"]) == tmp_path / "bi" / "index-000001.duckdb"
    assert (tmp_path / "bi" / "index-000001.duckdb").exists()


def forget_records(run: Path) -> None:
    for records in ("folded", "decisions"):
        shutil.rmtree(run / records)


def test_results_can_be_shown_after_the_format_of_specs_has_changed(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(done.root, tmp_path / "runs")
    path = root / "runs" / done.run_id / "plan.json"
    plan = json.loads(path.read_text())
    plan["spec"] = {"backbones": [plan["spec"].pop("backbone")], **plan["spec"], "scenarios": {"text": 3}}
    path.write_text(json.dumps(plan))
    forget_records(path.parent)  # an earlier version kept none
    assert main(["report", done.run_id, "--root", str(root)]) in (3, 4)
    assert main(["gate", done.run_id, "--root", str(root), "--policy", str(done.spec), "--json"]) in (3, 4)
    path.write_text(json.dumps({**plan, "policy": {**plan["policy"], "colour": "red"}}))
    forget_records(path.parent)
    capsys.readouterr()
    assert main(["gate", done.run_id, "--root", str(root)]) == 2
    assert "not one of this version" in capsys.readouterr().err
    assert main(["gate", done.run_id, "--root", str(root), "--policy", str(done.spec)]) in (3, 4)


def test_db_sql_cannot_reach_for_files(done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    assert main(["db", "sql", f"from '{tmp_path}/secret.csv'", "--root", str(done.root)]) == 2
    assert "secret" not in capsys.readouterr().out


def test_scenes_and_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "star"
    assert main(["testbed", "scenes", str(folder), "--class", "star", "-n", "3"]) == 0
    (folder / "broken.png").write_bytes(b"no picture")
    capsys.readouterr()
    out = tmp_path / "manifest.parquet"
    assert main(["corpus", "manifest", str(folder), "--concept", "star", "--json", "--out", str(out)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["objects"], summary["usable"], summary["unusable"]) == (4, 3, 1)
    assert summary["problems"] == ["manifest: unreadable share is within 0 and 0.1: 1 of 1 rows, such as 0.25"]
    assert out.exists()
    (folder / "broken.png").unlink()
    assert main(["corpus", "manifest", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_doctor_is_green_or_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--root", str(tmp_path), "--json"]) == 0
    found = {finding["check"]: finding["level"] for finding in json.loads(capsys.readouterr().out)}
    assert found["prefect"] == "ok"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--root", str(tmp_path / "file")]) == 2
    shown = capsys.readouterr().out
    assert "PROBLEM  storage root" in shown and "means:" in shown and "next:" in shown


def test_an_unexpected_error_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(root: object) -> str:
        raise RuntimeError("unforeseen\nsecond line")

    monkeypatch.setattr("audit.locations.storage_root", explode)
    assert main(["db", "runs"]) == 1
    shown = capsys.readouterr().err
    assert shown == "error: unexpected RuntimeError: unforeseen\n  next:  run with --debug for the traceback\n"
    assert main(["db", "runs", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(root: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("audit.locations.storage_root", interrupt)
    assert main(["db", "runs"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_with_json_is_one_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.yaml", "--json"]) == 2
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["exit_code"] == 2 and "nowhere.yaml" in document["error"]
    assert "nowhere.yaml" in shown.err


@pytest.mark.parametrize("status", list(VerdictStatus))
def test_every_verdict_has_an_exit_code(status: VerdictStatus) -> None:
    assert status.exit_code == {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[status]


def test_compiling_without_a_compiler_is_refused_before_anything_begins(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["run", str(done.spec), "--root", str(tmp_path / "runs"), "--compile", "inductor"]) == 2
    assert "the C++ compiler no-such-compiler is not on the PATH" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
