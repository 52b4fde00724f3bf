"""A Prefect API for flows where none is configured: a temporary server in a process of its own.

Prefect starts one itself on the first call, but imports its whole server into the calling process for that, which
costs about as much as the server's own start, and waits idle. This one comes up while the caller imports what the flow
will need, and ends with its caller even when that is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from audit.errors import EnvironmentProblem

PROGRAM = Path(__file__).with_name("server_process.py")
DRAIN_SECONDS = 5.0  # for the last log lines and events; nothing depends on them
END_SECONDS = 10.0
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")


@contextlib.contextmanager
def prefect_api(meanwhile: Callable[[], object]) -> Iterator[None]:
    """Give the flows inside the block a Prefect API: the configured one, or a temporary server that ends with the block.

    `meanwhile` is called while the temporary server comes up. Raises `EnvironmentProblem` when it does not.
    """
    from prefect import context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        yield
        return
    with _running() as server:
        meanwhile()
        os.environ["PREFECT_API_URL"] = server.api(settings.server.ephemeral.startup_timeout_seconds)
        context.refresh_global_settings_context()
        try:
            yield
        finally:
            _drain()
            os.environ.pop("PREFECT_API_URL", None)
            context.refresh_global_settings_context()


class _Server:
    """A server that was told to start at `address`."""

    def __init__(self, address: str, errors: Path) -> None:
        self._address, self._errors = address, errors

    def api(self, seconds: float) -> str:
        """Return the URL of its API, once it answers. Raises `EnvironmentProblem` when it ended or `seconds` have passed."""
        import httpx

        url = f"{self._address}/api"
        try:
            # The socket listens already: the request waits in its queue and is answered as soon as the server is up.
            httpx.get(f"{url}/health", timeout=seconds, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise EnvironmentProblem(
                f"Prefect's temporary server did not start: {self._reason() or type(error).__name__}",
                where="this machine",
                next_step="check with: erasure-audit doctor; or start a server yourself: prefect server start",
            ) from error
        return url

    def _reason(self) -> str:
        """Return the last exception that the server printed, else its last line: a crash may print frames after the exception."""
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1] if lines else "")


@contextlib.contextmanager
def _running() -> Iterator[_Server]:
    """Run the server's process inside the block; it listens from the beginning and answers some seconds later."""
    with _folder() as folder:
        errors = folder / "stderr"
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, errors.open("wb") as stream:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), str(listening.fileno())],
                env={**os.environ, "PREFECT_UI_ENABLED": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                pass_fds=(listening.fileno(),),
                start_new_session=True,  # Ctrl-C is for the flow, which tells the server how it ended
            )
        try:
            yield _Server(address, errors)
        finally:
            _end(process)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give a temporary folder to the block. Raises `EnvironmentProblem` where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="erasure-audit-server-", ignore_cleanup_errors=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"no temporary folder can be written: {error.strerror or error}",
            where="this machine",
            next_step="set TMPDIR to a folder that this user can write to",
        ) from None
    with folder as path:
        yield Path(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _drain() -> None:
    """Hand the server what Prefect's background threads still hold: later there is nobody to send it to."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    APILogWorker.drain_all(timeout=DRAIN_SECONDS)
