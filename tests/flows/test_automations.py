"""Oversight for real: a server on Postgres, a worker, the shipped deployments and automations, and a webhook on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.storage.journal import Journal
from flows.cli import main
from tests.dashboard.html import parse
from tests.flows.audits import WAIVED, tiny_spec
from tests.flows.postgres import AVAILABLE, postgres
from tests.flows.servers import prefect, prefect_server, process, wait_for
from tests.flows.test_notify import Hook, hook

__all__ = ["hook"]
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not AVAILABLE, reason="Postgres is not installed: apt-get install postgresql"),
]
REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
block = CustomWebhookNotificationBlock(
    name="hook", url=sys.argv[1], method="POST", json_data={"title": "{{subject}}", "message": "{{body}}"}
)
block.save("audit-alerts", overwrite=True)
"""
WORKER = [
    sys.executable,
    "-m",
    "prefect",
    "worker",
    "start",
    "--pool",
    "audit-pool",
    "--type",
    "process",
    "--limit",
    "1",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("prefect")
    with (
        postgres() as database,
        prefect_server(folder / "home", REPOSITORY, database) as environment,
    ):
        quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
        yield {**environment, **quick, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


def ask(server: dict[str, str], method: str, path: str, body: object = None) -> Any:
    answer = httpx.request(method, f"{server['PREFECT_API_URL']}/{path}", json=body, timeout=20.0)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def run_script(server: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=server, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def shorten(server: dict[str, str], name: str, seconds: int) -> None:
    """Let a shipped automation wait for seconds where it waits for minutes or hours."""
    (automation,) = ask(server, "POST", "automations/filter", {"automations": {"name": {"any_": [name]}}})
    automation["trigger"]["within"] = seconds
    kept = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
    ask(server, "PUT", f"automations/{automation['id']}", {field: automation[field] for field in kept})


def flow_runs(server: dict[str, str], name: str) -> list[dict[str, Any]]:
    return list(ask(server, "POST", "flow_runs/filter", {"deployments": {"name": {"any_": [name]}}}))


def test_a_shut_gate_a_missed_night_and_a_killed_run_are_told(
    server: dict[str, str], tiny_folder: Path, tmp_path: Path, hook: Hook
) -> None:
    url = hook.url.replace("json://", "http://")
    run_script(server, "-c", BLOCK, url)
    created = run_script(server, "-m", "deployments.automations", "custom-webhook/audit-alerts")
    assert created.count("created audit-") == 6
    again = run_script(server, "-m", "deployments.automations", "custom-webhook/audit-alerts")
    assert again.count("updated audit-") == 6
    shorten(server, "audit-zombie", 45)
    prefect(server, REPOSITORY, "work-pool", "create", "audit-pool", "--type", "process")
    file = str(REPOSITORY / "deployments" / "prefect.yaml")
    root = tmp_path / "runs"
    spec = failing_spec(tmp_path)
    prefect(
        server, REPOSITORY, "deploy", "--prefect-file", file, "--name", "nightly-audit", "--interval", "3600",
        "--param", f"spec={spec}", "--param", f"root={root}",
    )  # fmt: skip
    prefect(server, REPOSITORY, "deployment", "run", "audit/nightly-audit")
    log = tmp_path / "worker.log"
    with process(WORKER, server, log, REPOSITORY):
        wait_for("the message on a shut gate", lambda: told(hook, "audit: FAIL"), 600, log)
        (finished,) = [run for run in flow_runs(server, "nightly-audit") if run["state_type"] == "COMPLETED"]
        assert finished["state_name"] == "FAIL"
        shown_on_the_dashboard(root, tmp_path / "site")

        shorten(server, "audit-missed-night", 10)
        wait_for("the message on a missed night", lambda: told(hook, "a night was missed"), 120, log)
        shorten(server, "audit-missed-night", 93_600)

    long = [{"name": "text", "cases": 400, "sampler": {"steps": 500}}]
    slow = tiny_spec(tmp_path / "slow", tiny_folder, scenarios=long, corpus=[])
    prefect(
        server, REPOSITORY, "deployment", "run", "audit/nightly-audit", "--param", f"spec={slow}",
        "--param", f"root={tmp_path / 'slow-runs'}",
    )  # fmt: skip
    with process(WORKER, server, tmp_path / "second.log", REPOSITORY) as worker:
        wait_for("a running audit", lambda: of_state(server, "RUNNING"), 300, tmp_path / "second.log")
        wait_for("its first heartbeat", lambda: heartbeats(server), 120, tmp_path / "second.log")
        os.killpg(worker.pid, signal.SIGKILL)
        for child in children(server):
            os.kill(child, signal.SIGKILL)
    (zombie,) = wait_for("the end of the zombie", lambda: of_state(server, "CRASHED"), 300)
    assert zombie["id"] != finished["id"]
    assert ask(server, "GET", f"flow_runs/{finished['id']}")["state_type"] == "COMPLETED"
    wait_for("the message on the crash", lambda: told(hook, "audit: Crashed"), 120)
    assert "prompt" not in json.dumps(hook.told) and "a photo of" not in json.dumps(hook.told)


def failing_spec(folder: Path) -> Path:
    """The path of a spec whose eraser changes nothing: its guide is the concept itself."""
    eraser = {"method": "uce", "preset": "testbed", "parameters": {"guide": "a photo of a ring"}}
    return tiny_spec(
        folder,
        Path("testbed"),
        system={"name": "Painter", "version": "1"},
        corpus=[],
        defences=[{"name": "uce", "eraser": eraser}],
        scenarios=[{"name": "text", "cases": 12, "sampler": {"steps": 20, "guidance": 3.0}}],
        controls={"cases": 4, "random_latent": False},
        detectors=[{"name": "classifier", "kind": "classifier", "model": "testbed/classifier", "threshold": 0.5}],
        gate={"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.3}], **WAIVED},
    )


def shown_on_the_dashboard(root: Path, site: Path) -> None:
    """Build the dashboard of the root and find its only run on the overview, failed."""
    (run_id,) = Journal(str(root)).runs()
    assert main(["dashboard", "build", str(site), "--root", str(root)]) == 0
    overview = parse((site / "index.html").read_text()).text
    assert "✕ 1 FAIL ? 0 INCONCLUSIVE ✓ 0 PASS" in overview and "Painter ✕ FAIL" in overview and run_id in overview


def told(hook: Hook, *titles: str) -> list[dict[str, str]]:
    return [message for message in hook.told if any(title in message["title"] for title in titles)]


def of_state(server: dict[str, str], state: str) -> list[dict[str, Any]]:
    return [run for run in flow_runs(server, "nightly-audit") if run["state_type"] == state]


def heartbeats(server: dict[str, str]) -> int:
    wanted = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    runs = {f"prefect.flow-run.{run['id']}" for run in of_state(server, "RUNNING")}
    events = ask(server, "POST", "events/filter", wanted)["events"]
    return sum(event["resource"]["prefect.resource.id"] in runs for event in events)


def children(server: dict[str, str]) -> list[int]:
    """The processes of flow runs on this server, which outlive a killed worker."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        mine = server["PREFECT_API_URL"].encode() in environment
        if folder.name.isdigit() and mine and b"flow_engine" in command.replace(b".", b"_").replace(b"-", b"_"):
            found.append(int(folder.name))
    return found
