"""A warm process that forks the commands of a campaign: real processes that need not import torch each time.

    python -m tests.chaos.zygote        on stdin a JSON line for each command, on stdout one for each start and each end

It has no threads when it forks, which is what makes a fork of it as good as a fresh process.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAUSE_SECONDS = 0.02
REPOSITORY = Path(__file__).resolve().parents[2]
FSYNC_LOG = "CHAOS_FSYNC_LOG"  # a path: every fsync of the process is noted there


class Child:
    """A forked command. `code` is None until it has ended; a negative number is the signal that ended it."""

    def __init__(self, zygote: Zygote, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._zygote = zygote

    @property
    def code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        self._zygote.read(0.0)
        return self._zygote.codes.get(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the command and its children, if it still runs."""
        if self.code is None:
            os.killpg(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Return the exit code. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (code := self._zygote.codes.get(self.pid)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the command goes on after {seconds:.0f} s:\n{self.text()[-2000:]}")
            self._zygote.read(0.1)
        return code

    def text(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(errors="replace")


class Zygote:
    """The warm process seen from the campaign, as a context manager."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.codes: dict[int, int] = {}
        self.cpu_seconds = 0.0  # of all ended commands
        self._started: list[int] = []
        self._buffer = b""
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.zygote"], env=dict(environment), cwd=REPOSITORY,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
            )  # fmt: skip

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def start(self, argv: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Child:
        """Return a started `erasure-audit` command. `environment` replaces or adds variables."""
        assert self._process.stdin
        order = {"argv": list(argv), "environment": dict(environment), "folder": str(folder), "log": str(log)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        while not self._started:
            self.read(1.0)
        return Child(self, self._started.pop(), log)

    def read(self, seconds: float) -> None:
        """Take in what the warm process has said, waiting up to `seconds` for it."""
        assert self._process.stdout
        handle = self._process.stdout.fileno()
        if not select.select([handle], [], [], seconds)[0]:
            return
        data = os.read(handle, 1 << 16)
        if not data:
            raise RuntimeError(f"the warm process has ended with {self._process.wait(10)}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            document = json.loads(line)
            if "started" in document:
                self._started.append(document["started"])
            else:
                self.codes[document["ended"]] = document["code"]
                self.cpu_seconds += document["cpu"]


def _warm() -> None:
    """Import what an audit uses. No tensor is computed: torch's pool of threads does not survive a fork."""
    from flows import environment

    environment.apply()
    environment.quiet()  # Prefect reads its settings when it is imported, and a command is quiet by default
    import torch._dynamo  # noqa: F401 - what an optimiser's first step imports

    import flows.audit
    import flows.cli
    import flows.work  # noqa: F401
    from audit.compute import training_folders, worker  # noqa: F401
    from audit.index import validation  # noqa: F401
    from audit.progress import Session

    # Every iteration of a training leaves a checkpoint, so that a run is interrupted between two of them.
    training_folders.__dict__["Session"] = functools.partial(Session, checkpoint_seconds=0.0)


def _serve() -> dict[str, Any] | None:
    """Fork for each order. Return the order in a forked process, None in this one when its orders end."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    buffer, running, open_ = b"", set[int](), True
    while open_ or running:
        if open_ and select.select([0], [], [], PAUSE_SECONDS)[0]:
            data = os.read(0, 1 << 16)
            open_ = bool(data)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                if len(threading.enumerate()) > 1:
                    raise RuntimeError(f"no process can be forked beside threads: {threading.enumerate()}")
                pid = os.fork()
                if pid == 0:
                    answers.close()
                    order: dict[str, Any] = json.loads(line)
                    return order
                running.add(pid)
                answers.write(json.dumps({"started": pid}).encode() + b"\n")
        elif not open_:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            time.sleep(PAUSE_SECONDS)
        for pid in list(running):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                answer = {
                    "ended": pid,
                    "code": os.waitstatus_to_exitcode(status),
                    "cpu": usage.ru_utime + usage.ru_stime,
                }
                answers.write(json.dumps(answer).encode() + b"\n")
    return None


def note_fsyncs(path: str) -> None:
    """Append to `path` a line for each fsync of this process: device, inode, time of change, size, and the time now."""
    log, fsync = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), os.fsync

    def noted(handle: Any) -> None:
        fsync(handle)
        state = os.fstat(handle)
        line = f"{state.st_dev} {state.st_ino} {state.st_mtime_ns} {state.st_size} {time.time_ns()}\n"
        os.write(log, line.encode())

    os.fsync = noted  # type: ignore[assignment]


def _command(order: dict[str, Any]) -> int:
    """Become the ordered command; return its exit code."""
    os.setsid()
    log = os.open(order["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    if path := os.environ.get(FSYNC_LOG):
        note_fsyncs(path)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from prefect import context

    context.refresh_global_settings_context()
    from flows.cli import main

    sys.argv = ["erasure-audit", *order["argv"]]
    return main()


if __name__ == "__main__":
    _warm()
    gc.collect()
    gc.freeze()
    mine = _serve()
    sys.exit(0 if mine is None else _command(mine))
