"""The server a flow gets where none is configured."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from audit.errors import EnvironmentProblem
from flows.temporary_server import _folder, _Server
from tests.flows.servers import clean_environment, process, wait_for
from tests.machines import fresh_environment, nameless, open_folder

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
    state = seen(return_state=True)
    assert state.result() and calls == [1]
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).state_name == "Completed"
    loaded = [name for name in sys.modules if name.startswith("prefect.server.api.server")]
    assert not loaded, loaded
    print(os.environ["PREFECT_API_URL"], flush=True)
    time.sleep(600)
"""


def open_port(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def test_a_temporary_server_records_the_flow_and_ends_with_its_killed_caller(
    prefect_home: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = {**clean_environment(prefect_home), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    environment["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
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


_STARTS = """
from flows.temporary_server import prefect_api
from prefect import flow

@flow
def seen():
    return True

with prefect_api(lambda: None):
    assert seen()
print("finished")
"""


@pytest.mark.slow
def test_a_server_starts_in_a_home_that_cannot_be_written() -> None:
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o555)
        done = nameless(["-c", _STARTS], fresh_environment(HOME=str(home), TMPDIR=str(folder)), folder, seconds=300)
        assert done.returncode == 0, done.stderr
        assert "finished" in done.stdout
        assert list(home.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
def test_a_server_is_reached_past_a_proxy_that_refuses(name: str, tmp_path: Path) -> None:
    variables = fresh_environment(HOME=str(tmp_path), **{name: "http://127.0.0.1:9"})
    done = subprocess.run(
        [sys.executable, "-c", _STARTS], env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


def test_a_home_of_prefect_that_cannot_be_written_is_told_before_anything_starts() -> None:
    code = """
from audit.errors import EnvironmentProblem
from flows.prefect_check import require_prefect
try:
    require_prefect()
except EnvironmentProblem as problem:
    print(problem)
"""
    with open_folder() as folder:
        (folder / "home").mkdir(mode=0o555)
        variables = fresh_environment(HOME=str(folder), PREFECT_HOME=str(folder / "home" / "prefect"))
        done = nameless(["-c", code], variables, folder)
        assert done.returncode == 0, done.stderr
        assert f"the folder of Prefect's database cannot be written: {folder}/home/prefect" in done.stdout
        assert "set PREFECT_HOME to a folder" in done.stdout


def test_the_reason_of_a_server_that_crashed_is_its_exception(tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    errors.write_text("Traceback\nsqlite3.OperationalError: unable to open database file\n\n<no Python frame>\n")
    assert _Server("http://127.0.0.1:9", errors)._reason() == "sqlite3.OperationalError: unable to open database file"
    errors.write_text("Fatal Python error: nothing else\n")
    assert _Server("http://127.0.0.1:9", errors)._reason() == "Fatal Python error: nothing else"


def test_no_temporary_folder_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EnvironmentProblem, match="no temporary folder can be written") as raised, _folder():
        pass
    assert "TMPDIR" in str(raised.value)
