"""compare, baseline and gate --against, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import duckdb
import pytest
import yaml

from audit.locations import database_path
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, read_records
from flows.cli import main
from tests.flows.audits import finish_run, tiny_spec
from tests.index.pairs import decidable, decided, run_of, scored


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs of 80 cases: `old` and `same` without a hit, `bad` with 12, and `few` with 8 cases."""
    folder = str(tmp_path_factory.mktemp("compared") / "runs")
    journal = Journal(folder)
    for run_id, hits in (("old", 0), ("same", 0), ("bad", 12)):
        decidable(journal, run_id, range(hits))
    decidable(journal, "few", (), cases=8)
    decidable(journal, "judged-otherwise", (), instrument_id=12, weights_sha256="1" * 64)
    for run_id in ("old", "bad"):
        decided(journal, database_path(folder), run_id)
    assert main(["baseline", "set", "release-1", "old", "--root", folder]) == 0
    return folder


@pytest.mark.parametrize(
    ("new", "code", "status", "named"),
    [("same", 0, "PASS", False), ("bad", 3, "FAIL", True), ("few", 4, "INCONCLUSIVE", False)],
)
def test_the_exit_code_is_what_came_back(
    root: str, new: str, code: int, status: str, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [new, "--baseline", "release-1"] if named else ["old", new]
    assert main(["compare", *runs, "--root", root, "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["status"], told["exit_code"]) == ("erasure-audit.comparison", status, code)
    assert (told["old"]["run_id"], told["new"]["run_id"]) == ("old", new)
    assert told["baseline"] == ("release-1" if named else None)


def test_a_comparison_says_which_cases_came_back_and_which_have_no_partner(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "old", "bad", "--root", root]) == 3
    shown = capsys.readouterr().out
    assert shown.startswith("✕ FAIL  bad against old")
    assert "12 of 80 cases came back and 0 are held now" in shown
    assert main(["compare", "few", "--baseline", "release-1", "--root", root, "--format", "markdown"]) == 4
    shown = capsys.readouterr().out
    assert "few against baseline release-1" in shown
    assert "| ring | uce | text | the old run | 72 | the other run has other seeds |" in shown


def test_the_margin_and_the_policy_of_the_command_count(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "old", "same", "--root", root, "--margin", "0.01"]) == 4
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        yaml.safe_dump(
            {"version": "2", "limits": [{"crr_max": 0.1}], "judges": ["judge"], "thresholds": {"judge": 0.95}}
        )
    )
    capsys.readouterr()
    assert main(["compare", "old", "bad", "--root", root, "--policy", str(policy), "--json"]) == 0  # hits score 0.9
    assert json.loads(capsys.readouterr().out)["cells"][0]["decision"]["row"]["second_only"] == 0


@pytest.mark.parametrize(
    ("arguments", "said", "next_step"),
    [
        (["compare", "old"], "1 run ids are given without a baseline", "compare OLD NEW"),
        (["compare", "old", "bad", "--baseline", "release-1"], "2 run ids are given beside a baseline", "compare NEW --b"),
        (["compare", "never", "bad"], "never", ""),
        (["compare", "old", "never"], "never", ""),
        (["compare", "bad", "bad"], "bad is compared with itself", "name two different runs"),
        (["compare", "bad", "--baseline", "relase-1"], "no baseline 'relase-1'; did you mean release-1?", "baseline list"),
        (["compare", "bad", "--baseline", "../x"], "'../x' is no name of a baseline", "small letters"),
        (["compare", "old", "bad", "--margin", "1"], "a margin of 1 means nothing", "from 0 to below 1"),
        (["compare", "old", "bad", "--format", "sarif"], "a comparison has no format sarif", "gate NEW --against OLD"),
        (
            ["compare", "judged-otherwise", "bad"],
            "judge: weights_sha256 is 1111",
            "erasure-audit compare judged-otherwise bad --rescore",
        ),
        (["gate", "bad", "--against", "nothing"], "'nothing' is neither a run nor a baseline", "baseline list"),
        (
            ["gate", "bad", "--against", "judged-otherwise"],
            "were judged by other instruments",
            "erasure-audit compare judged-otherwise bad --rescore",
        ),
        (["baseline", "set", "old", "bad"], "this name is the id of a run", "choose another name"),
        (["baseline", "set", "release-2", "never"], "never", ""),
        (["baseline", "set", "release-2", "same"], "no decision is on record of this run", "erasure-audit gate same"),
        (["baseline", "set", "release-1", "bad"], "the baseline release-1 is old since", "--replace --reason"),
        (["baseline", "set", "release-1", "bad", "--replace"], "a replacement says why", "write a sentence"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_with_the_next_step(
    root: str, arguments: list[str], said: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(read_records(Journal(root), "bad", DECISIONS))
    assert main([*arguments, "--root", root]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("error: ") == 1
    assert said in told.err and next_step in told.err.partition("next:")[2]
    assert len(read_records(Journal(root), "bad", DECISIONS)) == before


def test_runs_that_share_no_case_are_refused_and_say_why(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("elsewhere", cases=8)
    for case in run.cases:
        case["seed"] += 1000
    scored(Journal(root), run, ())
    assert main(["compare", "elsewhere", "bad", "--root", root]) == 2
    told = capsys.readouterr().err
    assert "have no case in common: the other run has other seeds" in told and "compare runs of one spec" in told


@pytest.mark.parametrize(
    ("new", "gate", "regression", "code"),
    [("same", "PASS", "PASS", 0), ("bad", "PASS", "FAIL", 3)],
)
def test_the_worse_of_gate_and_regression_is_the_exit_code_and_on_record(
    root: str,
    new: str,
    gate: str,
    regression: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--against", "release-1", "--reports", str(tmp_path), "--spec-file", "audits/ring.yaml", "--json"]
    assert main(["gate", new, "--root", root, *options]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"]["status"] == gate
    assert told["regression"]["status"] == regression and told["regression"]["baseline"] == "release-1"
    record = read_records(Journal(root), new, DECISIONS)[-1].fields
    assert record["regression"]["status"] == regression and record["regression"]["old"]["run_id"] == "old"
    assert record["verdict"]["status"] == gate
    newest = sorted((Path(root) / "db" / "published").glob("index-*.duckdb"))[-1]
    with duckdb.connect(str(newest), read_only=True) as con:
        sql = "select regression, compared_with, baseline from mart_verdicts where run_id = ? and newest"
        assert con.execute(sql, [new]).fetchall() == [(regression, "old", "release-1")]
    require_reports(tmp_path, regression, code)


def require_reports(folder: Path, regression: str, code: int) -> None:
    """Every report says what came back and which of the two decides."""
    for name in ("report.html", "report.md"):
        decides = f"The worse of gate and regression decides: {regression}, exit code {code}."
        assert decides in (folder / name).read_text(), name
    findings = json.loads((folder / "report.sarif").read_text())["runs"][0]["results"]
    regressions = [finding for finding in findings if finding["ruleId"] == "regression"]
    assert len(regressions) == (regression != "PASS")
    for finding in regressions:
        (location,) = finding["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "audits/ring.yaml"
        assert location["logicalLocations"][0]["fullyQualifiedName"] == "ring/uce/text/judge"
    suites = ElementTree.parse(folder / "junit.xml").getroot()
    (suite,) = [suite for suite in suites if suite.get("name", "").endswith("regression")]
    assert int(suite.get("failures", "")) + int(suite.get("errors", "")) == (0 if regression == "PASS" else 2)
    summary = (folder / "summary.md").read_text()
    assert summary.splitlines()[0].endswith(f"{regression}: synthetic")
    assert f"Regression {regression}, against baseline release" in summary


def test_a_baseline_is_replaced_on_record_and_both_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "runs")
    for run_id in ("first", "second"):
        decidable(Journal(root), run_id, (), cases=8)
        decided(Journal(root), database_path(root), run_id)
    where = ["--root", root, "--json"]
    capsys.readouterr()
    assert main(["baseline", "list", *where]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["baseline", "set", "release-1", "first", *where]) == 0
    assert main(["baseline", "set", "release-1", "first", *where]) == 0  # the same again changes nothing
    because = "The second run has the new\x1b[31m sampler."
    assert main(["baseline", "set", "release-1", "second", "--replace", "--reason", because, *where]) == 0
    capsys.readouterr()
    assert main(["baseline", "list", *where]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["number"], row["run_id"]) for row in rows] == [
        ("release-1", 1, "first"),
        ("release-1", 2, "second"),
    ]
    assert rows[1]["reason"] == "The second run has the new\\x1b[31m sampler." and rows[1]["by"]


def test_a_baseline_whose_run_was_changed_compares_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    for run_id in ("old", "new"):
        decidable(Journal(str(root)), run_id, (), cases=8)
        decided(Journal(str(root)), database_path(str(root)), run_id)
    main(["baseline", "set", "release-1", "old", "--root", str(root)])
    for path in (root / "runs" / "old" / "folded").iterdir():
        path.unlink()
    for path in (root / "runs" / "old" / "decisions").iterdir():
        path.unlink()
    capsys.readouterr()
    assert main(["compare", "new", "--baseline", "release-1", "--root", str(root)]) == 5
    assert "no longer has the record of files that it had as baseline release-1" in capsys.readouterr().err


@pytest.mark.slow  # two audits of three pictures each
def test_old_pictures_are_scored_by_new_judges(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "runs")
    spec = tiny_spec(tmp_path, tiny_folder)
    old = finish_run(spec, Path(root))
    judge = {"name": "classes", "kind": "classifier", "model": "testbed/classifier"}
    changes: dict[str, Any] = yaml.safe_load(spec.read_text())
    changes = {"detectors": [judge], "gate": {**changes["gate"], "judges": ["classes"]}}
    new = finish_run(tiny_spec(tmp_path, tiny_folder, **changes), Path(root))
    where = ["--root", root, "--json"]
    assert main(["compare", old, new, *where]) == 2
    assert "classes is not in the old run" in json.loads(capsys.readouterr().out)["error"]
    before = {path: path.read_bytes() for path in (Path(root) / "runs" / old).rglob("*") if path.is_file()}
    assert main(["compare", old, new, "--rescore", "--device", "cpu", *where]) == 4  # 6 cases bound nothing
    told = json.loads(capsys.readouterr().out)
    assert told["old"]["derived_from"] == old and "scored again by the new run's judges" in told["notes"][0]
    rows = [cell["decision"]["row"] for cell in told["cells"]]
    assert {row["detector"] for row in rows} == {"classes"} and len(rows) == 2
    # The pictures are the same ones, so that the same judge says the same of them.
    assert all(row["first_only"] == row["second_only"] == row["unpaired"] == 0 for row in rows)
    assert sum(row["hit_both"] + row["clear_both"] + row["unassessed_unassessed"] for row in rows) == 6
    assert {path: path.read_bytes() for path in before} == before
    derived = told["old"]["run_id"]
    units = {path: path.stat().st_mtime_ns for path in (Path(root) / "units").rglob("*.parquet")}
    assert main(["compare", old, new, "--rescore", "--device", "cpu", *where]) == 4  # nothing is scored twice
    assert json.loads(capsys.readouterr().out)["old"]["run_id"] == derived
    assert {path: path.stat().st_mtime_ns for path in (Path(root) / "units").rglob("*.parquet")} == units
    assert main(["compare", derived, new, *where]) == 4
    for command in (["gate", derived], ["report", derived], ["baseline", "set", "release-1", derived]):
        capsys.readouterr()
        assert main([*command, *where]) == 2
        assert f"only scores the pictures of {old} again" in json.loads(capsys.readouterr().out)["error"]
    assert main(["db", "rebuild", *where]) == 0
    assert main(["gate", new, "--against", derived, *where]) == 4
