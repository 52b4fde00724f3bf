"""What a server does between audits, as plain functions: the flows of `flows.upkeep` without an engine."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from audit.compliance.period import Month
from audit.errors import EvidenceError, KeyProblem, NotVerified, SpecError, StoreError
from audit.evidence import keys
from audit.evidence.expiry import expiring_waivers
from audit.evidence.waivers import create
from audit.storage.journal import Journal
from deployments.automations import FILE, read_automations
from flows import upkeep
from tests.evidence.test_waiver_files import PLAN, waiver
from tests.synthetic import Run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(upkeep, "get_run_logger", lambda: logging.getLogger("upkeep"))
    journal = Journal(str(tmp_path / "runs"))
    for number in (1, 2):
        system = {"name": "Painter", "version": str(number)}
        Run(f"run-{number}", system=system, created_at=f"2025-11-0{number}T00:00:00Z").write(journal)
    return str(tmp_path / "runs")


def test_everything_is_folded_and_published(root: str) -> None:
    published = upkeep.publish.fn(root)
    with duckdb.connect(published, read_only=True) as con:
        assert con.execute("select count(*) from mart_runs").fetchall() == [(2,)]


def test_bundles_that_do_not_hold_fail_the_flow(root: str, tmp_path: Path) -> None:
    public = keys.generate(tmp_path / "seal.pem")
    with pytest.raises(EvidenceError, match="no bundle"):
        upkeep.verify_evidence.fn(str(tmp_path / "bundles"), [str(public.path)])
    (tmp_path / "bundles" / "one").mkdir(parents=True)
    (tmp_path / "bundles" / "one" / "bagit.txt").write_text("BagIt-Version: 1.0\n")
    with pytest.raises(NotVerified, match="1 of 1 bundles do not verify: one"):
        upkeep.verify_evidence.fn(str(tmp_path / "bundles"), [str(public.path)])


def test_pictures_whose_time_is_over_are_removed_and_a_changed_run_fails_the_flow(root: str) -> None:
    journal = Journal(root)
    upkeep.publish.fn(root)
    reason = "the retention period of pictures is over"
    with pytest.raises(SpecError, match="counted from 0"):
        upkeep.retention.fn(-1, 0, reason, root=root)
    assert upkeep.retention.fn(36_500, 36_500, reason, root=root) == 0
    with pytest.raises(KeyProblem):
        upkeep.retention.fn(0, 0, reason, key=f"{root}/none.pem", root=root)
    assert upkeep.retention.fn(0, 0, reason, root=root) == 8
    assert all(journal.read("generate", key)["image"].null_count == 4 for key in journal.keys("generate"))
    assert upkeep.retention.fn(0, 0, reason, root=root) == 0
    third = Run("run-3", created_at="2025-11-03T00:00:00Z")
    third.write(journal)
    upkeep.publish.fn(root)
    third.rewrite(journal, "generate", 0, {0: {"unet_calls": 1}})
    with pytest.raises(NotVerified, match="not what is on record were left: run-3"):
        upkeep.retention.fn(0, 0, reason, root=root)


def test_what_expires_is_told_as_an_event(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(upkeep, "emit_event", lambda **event: told.append(event))
    (tmp_path / "waivers").mkdir()
    (tmp_path / "waivers" / "w.json").write_text("{}")
    (sentence,) = upkeep.tell_expiry.fn(root, waivers=str(tmp_path / "waivers"))
    assert sentence.startswith("waiver w.json: it does not count")
    (event,) = told
    assert event["event"] == upkeep.EXPIRING and event["payload"] == {"text": sentence}
    assert upkeep.tell_expiry.fn(root) == []


def test_a_waiver_is_told_before_it_ends(tmp_path: Path) -> None:
    public, until = keys.generate(tmp_path / "approver.pem"), waiver().until
    path = tmp_path / "w.json"
    path.write_bytes(create(waiver(), PLAN, keys.load_private_key(tmp_path / "approver.pem")))
    before = until - dt.timedelta(days=10)
    assert expiring_waivers([path], [public], before, dt.timedelta(days=5)) == []
    (soon,) = expiring_waivers([path], [public], before, dt.timedelta(days=14))
    assert soon.on == until.date() and "expires on" in soon.sentence(before.date())
    (gone,) = expiring_waivers([path], [public], until + dt.timedelta(days=1), dt.timedelta(days=14))
    assert "expired on" in gone.sentence((until + dt.timedelta(days=1)).date())


def test_each_system_of_the_month_before_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system of which no run started fails the flow, after the others are reported."""
    monkeypatch.setattr(upkeep, "get_run_logger", lambda: logging.getLogger("upkeep"))
    root, now = tmp_path / "runs", dt.datetime.now(dt.UTC)
    before = Month(now.year, now.month).before
    for system, month in (("Painter", before), ("Sketcher", before.before), ("Mural", before.before.before)):
        named = {"name": system, "version": "1"}
        Run(f"run-{system}", system=named, created_at=f"{month}-05T02:00:00Z").write(Journal(str(root)))
    with pytest.raises(StoreError, match=f"no run started in {before} of: 'Sketcher'"):
        upkeep.monthly_report.fn(str(root), expected="0 2 5,6 * *", formats="html,json")
    (folder,) = (root / "reports").iterdir()
    assert folder.name.startswith(f"monthly-{before}-")
    report = json.loads((folder / "report.json").read_text())["report"]
    assert (report["system"], report["month"], report["status"]) == ("Painter", str(before), "INCONCLUSIVE")
    assert report["operation"]["missed"] == [f"{before}-06T02:00:00Z"] and report["operation"]["undecided"] == 1
    assert upkeep.monthly_report.fn(str(root), systems=["Painter"], formats="json") == [str(folder)]
    (root / "runs" / "run-Mural" / "plan.json").write_text("{}")
    with pytest.raises(StoreError, match=r"in no report, because it is damaged: .*run-Mural"):
        upkeep.monthly_report.fn(str(root), systems=["Painter"], formats="json")


def test_automations_know_the_names_of_verdicts_and_events() -> None:
    block = "12345678-1234-5678-1234-567812345678"
    automations = {automation.name: automation for automation in read_automations(block)}
    assert len(automations) == len(yaml.safe_load(FILE.read_text())["automations"])
    zombie = automations["audit-zombie"].trigger
    ends = {"Completed", "Failed", "Cancelled", "Crashed", "PASS", "FAIL", "INCONCLUSIVE", "heartbeat"}
    assert zombie.expect == {f"prefect.flow-run.{end}" for end in ends}
    assert automations["audit-missed-night"].trigger.within == dt.timedelta(hours=26)
    assert automations["audit-expiry"].trigger.expect == {upkeep.EXPIRING}
    assert "${" not in str([automation.model_dump() for automation in automations.values()])


def test_deployments_name_flows_that_exist() -> None:
    deployments = yaml.safe_load((REPOSITORY / "deployments" / "prefect.yaml").read_text())["deployments"]
    for deployment in deployments:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(__import__(module, fromlist=[name]), name)
        known = set(flow.parameters.properties)
        assert set(deployment.get("parameters", {})) <= known
        assert set(flow.parameters.required) <= set(deployment.get("parameters", {})) | {"run_id"}
