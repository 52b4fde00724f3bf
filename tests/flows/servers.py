"""A real Prefect server, worker and CLI on loopback, each in its own process group that is gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.temporary_server import _drain
from tests.servers import free_port

START_SECONDS = 240.0  # ten on a free machine; this one may be shared


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a child that sees no Prefect profile, server or telemetry of its caller."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": f"{START_SECONDS:.0f}",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def prefect_settings(environment: Mapping[str, str]) -> Iterator[None]:
    """Let Prefect in this process read what `environment` says of it, and nothing else that is set."""
    from prefect.context import refresh_global_settings_context

    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("PREFECT_")]:
                patch.delenv(name)
            for name, value in environment.items():
                if name.startswith("PREFECT_"):
                    patch.setenv(name, value)
            refresh_global_settings_context()
            try:
                yield
            finally:
                _drain()  # while its server is there; later tests would read on stderr that it is gone
    finally:
        refresh_global_settings_context()


@contextlib.contextmanager
def process(
    command: list[str], environment: Mapping[str, str], log: Path, cwd: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command, its output in `log`; its whole process group is killed at the end."""
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, env=dict(environment), cwd=cwd, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield child
        finally:
            for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(patience)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # children that outlived their leader


def wait_for(what: str, check: Callable[[], Any], seconds: float, log: Path | None = None, pause: float = 0.3) -> Any:
    """The first true answer of `check`; AssertionError with the end of `log` when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if found := check():
                return found
        time.sleep(pause)
    tail = log.read_text(errors="replace")[-3000:] if log else ""
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s\n{tail}")


def server_log(home: Path) -> Path:
    """The file that holds what the server of `home` prints."""
    return home.with_suffix(".server.log")


@contextlib.contextmanager
def prefect_server(home: Path, cwd: Path, database: str | None = None, **changes: str) -> Iterator[dict[str, str]]:
    """The environment that points children at a fresh Prefect server, on `database` or an SQLite file below `home`.

    `changes` are variables of the server alone; its output is in `server_log(home)`.
    """
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **clean_environment(home),
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_UI_ENABLED": "false",
        **({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = server_log(home)
    with process(command, {**environment, **changes}, log, cwd) as child:

        def healthy() -> bool:
            assert child.poll() is None, f"the server ended:\n{log.read_text(errors='replace')[-3000:]}"
            return httpx.get(f"{api}/health", timeout=2.0).status_code == 200

        wait_for("the start of the server", healthy, START_SECONDS, log)
        yield {**environment, "PREFECT_API_URL": api}


def prefect(environment: Mapping[str, str], cwd: Path, *arguments: str) -> str:
    """The output of one `prefect` command, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=dict(environment), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"prefect {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def cli(environment: Mapping[str, str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One finished `erasure-audit` command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=dict(environment), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
