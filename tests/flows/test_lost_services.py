"""What a run needs may go while it lasts: the Prefect server, or the process that started it."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.audits import tiny_spec
from tests.flows.servers import cli

pytestmark = pytest.mark.server
REPOSITORY = Path(__file__).resolve().parents[2]
POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from tasks.pool_process import begin_process

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_process, (0, 1))
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


class Failing(http.server.BaseHTTPRequestHandler):
    """A Prefect server whose database is gone: it says that it is well, and answers nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith("/health") else 500)
        self.end_headers()
        self.wfile.write(b"true")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_failing_prefect_server_gets_one_message_that_says_how_to_go_on(
    address: str, tmp_path: Path, tiny_folder: Path
) -> None:
    variables = {**os.environ, "PREFECT_API_URL": address, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    done = cli(variables, REPOSITORY, "run", str(tiny_spec(tmp_path, tiny_folder)), "--root", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert "error: the Prefect server failed" in done.stderr and "where: PREFECT_API_URL" in done.stderr
    assert done.stderr.count("next:") == 1 and "erasure-audit resume tiny-" in done.stderr
    assert "Traceback" not in done.stderr


def test_processes_end_with_the_run_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30.0
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(child, 0)
            time.sleep(0.1)
        os.kill(child, signal.SIGKILL)
        pytest.fail("the process outlived its run")
