"""Flows for real: without a server, on a server, on a schedule, with slots, killed and resumed.

A combination of Prefect, fastapi and SQLAlchemy in which flows die or schedules never fire is noticed here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from audit import run
from audit.errors import AuditError
from audit.plan.document import KINDS, read_plan
from audit.storage.journal import Journal
from flows.cli import main
from tasks.slots import LEASE_SECONDS
from tests.flows.audits import finish_run, plan_run, tiny_spec
from tests.flows.servers import clean_environment, cli, prefect, prefect_server, prefect_settings, process, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOYMENTS = str(REPOSITORY / "deployments" / "prefect.yaml")
VERDICTS = (0, 3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[dict[str, str]]:
    """A server with a database of its own, which temporary servers may have made before."""
    home = shutil.copytree(prefect_home, tmp_path_factory.mktemp("prefect") / "home")
    with prefect_server(home, REPOSITORY) as environment:
        yield environment


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return tiny_spec(tmp_path_factory.mktemp("spec"), tiny_folder)


def ask(environment: dict[str, str], path: str, body: object) -> list[dict[str, Any]]:
    answer = httpx.post(f"{environment['PREFECT_API_URL']}/{path}", json=body, timeout=20.0)
    answer.raise_for_status()
    return list(answer.json())


def complete(root: Path, run_id: str) -> bool:
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    return all(not plan.pending(kind, journal) for kind in KINDS)


def test_without_a_server_a_run_that_was_killed_goes_on(
    spec: Path, prefect_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command starts a server of its own and ends it. `test_kill` compares every table, in every stage.

    Bounds for a fixed number of cases hold because a resume never enlarges the plan.
    """
    environment = clean_environment(prefect_home)
    root, log = tmp_path / "runs", tmp_path / "run.log"
    command = [sys.executable, "-m", "flows.cli", "run", str(spec), "--root", str(root)]
    with process(command, environment, log, REPOSITORY) as child:
        wait_for("the first generated unit", lambda: Journal(str(root)).keys("generate"), 600, log, pause=0.05)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(120) == -signal.SIGKILL
    (run_id,) = Journal(str(root)).runs()
    assert not complete(root, run_id)
    before = read_plan(Journal(str(root)), run_id)

    with prefect_settings(environment):
        code = main(["resume", run_id, "--root", str(root), "--json"])

    told = capsys.readouterr()
    assert code in VERDICTS, told.err
    assert json.loads(told.out)["run_id"] == run_id
    assert complete(root, run_id)
    assert (root / "reports" / run_id / "report.html").stat().st_size > 1000
    assert "Traceback" not in told.err
    assert "resume" not in told.err
    after = read_plan(Journal(str(root)), run_id)
    assert after.cases.equals(before.cases) and after.cells == before.cells


@pytest.fixture(scope="module")
def deployed(server: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The shipped deployments, by name, as the server has them."""
    prefect(server, REPOSITORY, "work-pool", "create", "audit-pool", "--type", "process")
    prefect(server, REPOSITORY, "deploy", "--all", "--prefect-file", DEPLOYMENTS)
    return {deployment["name"]: deployment for deployment in ask(server, "deployments/filter", {})}


def test_every_shipped_deployment_is_taken(deployed: dict[str, dict[str, Any]]) -> None:
    names = {
        "nightly-audit", "weekly-full", "monthly-report", "publish", "verify-evidence", "expiry", "retention", "work", "erase",
    }  # fmt: skip
    assert set(deployed) == names
    (schedule,) = deployed["nightly-audit"]["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * *" and schedule["active"]


@pytest.mark.slow
def test_a_schedule_fires_and_completes_an_audit(
    server: dict[str, str], deployed: dict[str, dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    text = [{"name": "text", "cases": 1, "sampler": {"steps": 2}}]
    spec = tiny_spec(tmp_path, tiny_folder, scenarios=text, corpus=[], controls={"cases": 1, "random_latent": False})
    prefect(
        server, REPOSITORY, "deploy", "--prefect-file", DEPLOYMENTS, "--name", "nightly-audit",
        "--interval", "10", "--param", f"spec={spec}", "--param", f"root={root}",
    )  # fmt: skip
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "audit-pool", "--type", "process"]
    quick = {**server, "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
    log = tmp_path / "worker.log"
    with process([*worker, "--limit", "1"], quick, log, REPOSITORY):

        def completed() -> list[dict[str, Any]]:
            own = {"deployments": {"id": {"any_": [deployed["nightly-audit"]["id"]]}}}
            runs = ask(server, "flow_runs/filter", own)
            failed = [run for run in runs if run["state_type"] == "FAILED"]  # CRASHED is a busy SQLite server
            assert not failed, log.read_text(errors="replace")[-3000:]
            return [run for run in runs if run["state_type"] == "COMPLETED"]

        (run, *_) = wait_for("a scheduled run that completes", completed, 1200, log)
    assert run["auto_scheduled"]
    assert run["state_name"] in ("FAIL", "INCONCLUSIVE")  # the verdict on random weights
    run_id = Journal(str(root)).runs()[0]
    assert complete(root, run_id)
    assert (root / "reports" / run_id / "report.html").exists()
    artifacts = {artifact["key"]: artifact for artifact in ask(server, "artifacts/filter", {})}
    assert {"audit-verdict", "audit-rates", "audit-generate"} <= artifacts.keys()
    told = artifacts["audit-generate"]["description"]
    assert re.fullmatch(rf"generate: (\d+)/\1 units of run {run_id}, \d.*/(s|min|h)", told)


def test_a_missing_slot_is_refused_before_anything_is_computed(
    server: dict[str, str], spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    with prefect_settings(server):
        assert main(["run", str(spec), "--root", str(root), "--gpu-slot", "nobody-made-it"]) == 2
    told = capsys.readouterr().err
    assert "prefect gcl create nobody-made-it --limit 1" in told
    assert "Traceback" not in told
    assert not Journal(str(root)).runs()


def test_a_changed_unit_is_named_by_resume(
    server: dict[str, str], spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = finish_run(spec, tmp_path / "runs")
    unit = next((tmp_path / "runs" / "units" / "detect").rglob("*.parquet"))
    unit.write_bytes(unit.read_bytes()[:-1] + b"x")
    with prefect_settings(server):
        assert main(["resume", run_id, "--root", str(tmp_path / "runs")]) == 5
    assert unit.name in capsys.readouterr().err


def test_the_flow_that_erases_makes_an_artefact_and_refuses_a_method_that_would_train_nothing(
    server: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    from flows.erase import erase

    out, options = str(tmp_path / "out"), {"backbone": str(tiny_folder), "device": "cpu"}
    with prefect_settings(server):
        with pytest.raises(AuditError, match=r"did you mean esd-x\?"):
            erase("xattn", ["abc"], out, settings=["stored=float32"], **options)
        path = Path(erase("uce", ["abc"], out, settings=["stored=float32"], **options))
    assert path.is_file()
    assert {made.name for made in path.parent.iterdir()} == {path.name, "README.md"}  # the refusal left nothing


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_by_helpers(server: dict[str, str], spec: Path, tmp_path: Path) -> None:
    prefect(server, REPOSITORY, "gcl", "create", "gpu", "--limit", "1")
    root, log = tmp_path / "runs", tmp_path / "run.log"
    command = [sys.executable, "-m", "flows.cli", "run", str(spec), "--root", str(root), "--gpu-slot", "gpu"]
    with process(command, server, log, REPOSITORY) as child:
        wait_for("the first generated unit", lambda: Journal(str(root)).keys("generate"), 300, log)
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(120) == 130
    (run_id,) = Journal(str(root)).runs()
    shown = log.read_text()
    assert f"resume with: erasure-audit resume {run_id} --root {root}" in shown
    assert "Traceback" not in shown
    assert not complete(root, run_id)

    helper = cli(server, REPOSITORY, "work", run_id, "--root", str(root), "--json")
    assert helper.returncode == 0, helper.stderr
    assert json.loads(helper.stdout)["computed"] > 0
    assert complete(root, run_id)

    resumed = cli(server, REPOSITORY, "resume", run_id, "--root", str(root), "--format", "junit")
    assert resumed.returncode in VERDICTS, resumed.stderr
    assert resumed.stdout.startswith("<?xml")

    def free() -> bool:
        """Interrupted while it was given its slot, a process holds it until the lease ends."""
        found = httpx.get(f"{server['PREFECT_API_URL']}/v2/concurrency_limits/gpu", timeout=20.0).json()
        return bool(found["active_slots"] == 0)

    wait_for("the slot to be free", free, 3 * LEASE_SECONDS, log)


@pytest.mark.slow
def test_a_picture_that_changed_costs_its_own_cases(server: dict[str, str], tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run_id = plan_run(tiny_spec(tmp_path, tiny_folder), root)
    picture = sorted((tmp_path / "corpus" / "ring").iterdir())[0]
    Image.new("RGB", (64, 64), "red").save(picture)  # no longer what the manifest hashed

    done = cli(server, REPOSITORY, "resume", run_id, "--root", str(root))

    assert done.returncode == 4, done.stderr
    assert re.search(r"invert unit \w+: 1 of 3 rows are errors", done.stderr)
    assert re.search(r"generate unit \w+: 1 of \d rows are errors", done.stderr)
    assert "not tried" not in done.stderr and "Traceback" not in done.stderr
    assert f"next    erasure-audit resume {run_id}" in done.stdout
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    for unit in plan.units_of("invert"):
        rows = journal.read("invert", unit.key, ["status", "error"]).to_pylist()
        (wrong,) = [row["error"] for row in rows if row["status"] == "error"]
        assert "changed" in wrong and [row["status"] for row in rows].count("error") == 1
    pending = {kind: len(plan.pending(kind, journal)) for kind in KINDS}
    assert pending["erase"] == 0 and pending["invert"] == 2


@pytest.mark.slow
def test_a_unit_that_fails_does_not_stop_the_others(server: dict[str, str], tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run_id = plan_run(tiny_spec(tmp_path, tiny_folder), root)
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    for kind in ("erase", "invert"):
        for unit in plan.pending(kind, journal):
            worker.run(unit)
    for path in (root / "units" / "invert").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:40])

    done = cli(server, REPOSITORY, "resume", run_id, "--root", str(root))

    assert done.returncode == 4, done.stderr
    assert re.search(r"generate unit \w+: a unit lacks its tensors: .* is corrupt", done.stderr)
    assert re.search(r"detect unit \w+: not tried: unit \w+ it depends on is not in the journal", done.stderr)
    assert f"next    erasure-audit resume {run_id}" in done.stdout
    assert "Traceback" not in done.stderr
    failed = plan.pending("generate", journal)
    assert failed and all(unit.identity.source == "latent" for unit in failed)

    for path in (root / "units" / "invert").rglob("*.parquet"):
        path.unlink()  # as the message says
    assert cli(server, REPOSITORY, "resume", run_id, "--root", str(root)).returncode in VERDICTS
    assert complete(root, run_id)
