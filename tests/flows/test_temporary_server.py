"""The server a flow gets where none is configured."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.servers import clean_environment, process, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).resolve().parents[2]
HOLDER = """
import os, sys, time
from flows.temporary_server import prefect_api
from prefect import flow
from prefect.client.orchestration import get_client

@flow
def seen():
    return True

calls = []
with prefect_api(lambda: calls.append(1)):
    assert seen() and calls == [1]
    with get_client(sync_client=True) as client:
        assert [run.state_name for run in client.read_flow_runs()] == ["Completed"]
    loaded = [name for name in sys.modules if name.startswith("prefect.server.api.server")]
    assert not loaded, loaded
    print(os.environ["PREFECT_API_URL"], flush=True)
    time.sleep(600)
"""


def open_port(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def test_a_temporary_server_records_the_flow_and_ends_with_its_killed_caller(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**clean_environment(tmp_path / "home"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    environment["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "240"
    with process([sys.executable, "-c", HOLDER], environment, log, REPOSITORY) as child:
        wait_for("the flow", lambda: "/api" in log.read_text() or child.poll() is not None, 300, log)
        assert child.poll() is None, log.read_text()
        port = int(log.read_text().split("/api")[0].rpartition(":")[2])
        assert open_port(port)
        os.kill(child.pid, 9)
        child.wait(30)
        wait_for("the end of the server", lambda: not open_port(port), 120, log)


def test_a_temporary_server_that_cannot_start_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    environment = clean_environment(tmp_path / "home")
    environment["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/file/prefect.db"
    code = """
from audit.errors import EnvironmentProblem
from flows.temporary_server import prefect_api
try:
    with prefect_api(lambda: None):
        raise SystemExit("the server started")
except EnvironmentProblem as problem:
    print(problem)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "temporary server did not start: " in done.stdout and "prefect server start" in done.stdout
