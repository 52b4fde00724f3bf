"""waiver create and show, and the gate's flags: exit code 0 only when signed waivers cover all that has not passed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import pytest

from audit.evidence import keys
from audit.storage.journal import Journal
from audit.verdict.results import RunResult
from flows.cli import main
from flows.commands import results
from tests.report import runs
from tests.synthetic import cell

GIVEN = ("--reason", "ships to nobody yet", "--owner", "Ada", "--approver", "Bob",
         "--compensating-control", "closed beta only")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Desk:
    """A failed run in a journal, with the approver's key beside it."""

    folder: Path
    result: RunResult

    @property
    def public(self) -> str:
        return str(self.folder / "bob.pub")

    def create(self, name: str, *cells: str, days: int = 30, key: str = "bob.pem", run: str = "") -> int:
        """The exit code of `waiver create`."""
        until = f"{dt.datetime.now(dt.UTC) + dt.timedelta(days=days):%Y-%m-%d}"
        chosen = [word for text in cells for word in ("--cells", text)]
        return main(
            ["waiver", "create", self.file(name), "--run", run or self.result.run_id, *chosen, *GIVEN, "--until", until,
             "--key", str(self.folder / key), "--root", str(self.folder / "runs")]
        )  # fmt: skip

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def gate(self, *words: str) -> int:
        """The exit code of `gate`."""
        return main(["gate", self.result.run_id, "--no-record", "--root", str(self.folder / "runs"), *words])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    result = runs.failing()
    audited = {(row.concept, row.defence, row.scenario): row for row in result.crr if row.role == "target"}
    document = {
        "run_id": result.run_id, "created_at": result.created_at, "instruments": [], "policy": result.spec["gate"],
        "cells": [
            cell(row.cell_id, row.planned, concept=concept, defence=defence, scenario=scenario)
            for (concept, defence, scenario), row in audited.items()
        ],
    }  # fmt: skip
    Journal(str(tmp_path / "runs")).put_run(result.run_id, "plan.json", json.dumps(document).encode())
    keys.generate(tmp_path / "bob.pem")
    monkeypatch.setattr(results, "_conclude", lambda *arguments: result)
    return Desk(tmp_path, result)


def test_a_waiver_opens_the_gate_only_when_it_is_honoured(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.gate() == 3
    assert desk.create("w.json", "concept=ring,defence=uce-ring") == 0
    capsys.readouterr()
    asked = ("--waiver", desk.file("w.json"), "--key", desk.public)
    assert desk.gate(*asked) == 3
    shown = capsys.readouterr()
    assert "FAIL (waived until 20" in shown.err and "--honour-waivers alone" in shown.err
    assert desk.gate("--honour-waivers", *asked) == 0
    shown = capsys.readouterr()
    assert "the gate is opened by waivers: no status has changed" in shown.err and "FAIL" in shown.out
    assert "owner Ada, approved by Bob: ships to nobody yet; compensating control: closed beta only" in shown.err


def test_a_waiver_that_covers_half_leaves_the_gate_shut(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    failing = {d.scenario for d in desk.result.verdict.decisions if d.status != "PASS"}
    judges = sorted({d.detector for d in desk.result.verdict.decisions if d.status != "PASS"})
    assert failing and judges
    assert desk.create("w.json", f"concept=ring,judge={judges[0]}") == 0
    assert desk.gate("--honour-waivers", "--waiver", desk.file("w.json"), "--key", desk.public) == 3
    shown = capsys.readouterr().err
    assert "no waiver covers it" in shown and "the gate stays shut" in shown


def test_a_waiver_that_nobody_trusted_signed_is_as_if_absent(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    keys.generate(desk.folder / "eve.pem")
    assert desk.create("w.json", "concept=ring", key="eve.pem") == 0
    (desk.folder / "cut.json").write_text("{")
    files = ("--waiver", desk.file("w.json"), "--waiver", desk.file("cut.json"), "--waiver", desk.file("none.json"))
    assert desk.gate("--honour-waivers", *files, "--key", desk.public) == 3
    shown = capsys.readouterr().err
    assert shown.count("does not count") == 3 and "none that you trust" in shown


def test_flags_that_do_not_fit_together_are_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.gate("--honour-waivers") == 2
    assert "name each with --waiver FILE" in capsys.readouterr().err
    assert desk.gate("--waiver", "w.json") == 2
    assert "no key is trusted" in capsys.readouterr().err


def test_create_refuses_what_cannot_be_waived(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for cells, days, sentence in (
        ("concept=disc", 30, "no decision of the run is one of"),
        ("judge=nobody", 30, "no decision of the run is one of"),
        ("concept=ring", 91, "90 days at most"),
        ("concept=ring", -1, "it ended on"),
        ("everything", 30, "selects no decision"),
    ):
        assert desk.create("w.json", cells, days=days) == 2
        assert sentence in capsys.readouterr().err
    assert desk.create("w.json", "concept=ring", run="another") == 2
    assert desk.create("w.json", "concept=ring", key="bob.pub") == 2
    assert not Path(desk.file("w.json")).exists()
    assert desk.create("w.json", "concept=ring") == 0
    assert desk.create("w.json", "concept=ring") == 2


def test_show_prints_what_is_waived(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.create("w.json", "concept=ring")
    capsys.readouterr()
    assert main(["waiver", "show", desk.file("w.json"), "--key", desk.public, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["owner"], document["cells"]) == ("Ada", ["side=reproduction,concept=ring"])
    assert main(["waiver", "show", desk.file("w.json")]) == 5
