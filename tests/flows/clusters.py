"""A real Ray cluster on loopback: a head and nodes, each in a process group of its own that is gone when the block ends."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.flows.servers import process, wait_for
from tests.servers import free_port

START_SECONDS = 180.0
_MEMORY = 100_000_000  # bytes of each node's object store, which the audit hardly uses


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A head without CPUs and what is needed to add nodes to it and to connect."""

    folder: Path
    environment: Mapping[str, str]
    gcs: int
    client: int
    head: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The address for `--address`."""
        return f"ray://127.0.0.1:{self.client}"

    @contextlib.contextmanager
    def node(self, name: str, cpus: float = 2, gpus: int = 0, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
        """A node of the cluster that says it has `cpus` and `gpus`; `changes` are variables of its environment."""
        command = [
            *_RAY, "start", "--block", f"--address=127.0.0.1:{self.gcs}", "--node-ip-address=127.0.0.1",
            f"--num-cpus={cpus}", f"--num-gpus={gpus}", *_COMMON,
        ]  # fmt: skip
        log = self.folder / f"{name}.log"
        with contextlib.ExitStack() as stack:
            for last in (False, False, True):
                starting = process(command, {**self.environment, **changes}, log, self.folder)
                child = stack.enter_context(starting)
                if wait_for(f"the start of node {name}", lambda: _up(child, log), START_SECONDS, log) == "up":  # noqa: B023
                    break
                assert not last, f"it ended:\n{log.read_text(errors='replace')[-3000:]}"
            yield child


def _up(child: subprocess.Popen[bytes], log: Path) -> str:
    """Whether a node is up, or gave up after the half minute that Ray waits for it on busy cores."""
    if child.poll() is not None:
        return "ended"
    return "up" if "Ray runtime started" in log.read_text(errors="replace") else ""


_RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
_COMMON = (f"--object-store-memory={_MEMORY}", "--disable-usage-stats")


def _started(child: subprocess.Popen[bytes], log: Path) -> bool:
    text = log.read_text(errors="replace")
    assert child.poll() is None, f"it ended:\n{text[-3000:]}"
    return "Ray runtime started" in text


@contextlib.contextmanager
def ray_cluster(environment: Mapping[str, str], *nodes: str) -> Iterator[Cluster]:
    """A cluster with token authentication and nodes of two CPUs; children get `environment` beside Ray's own variables."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie below it
    token = secrets.token_hex(32)
    variables = {
        **environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "150",  # half a minute is too short on busy cores
        "HOME": str(folder), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]),
    }  # fmt: skip
    cluster = Cluster(folder, variables, free_port(), free_port())
    command = [
        *_RAY, "start", "--head", "--block", f"--port={cluster.gcs}", f"--ray-client-server-port={cluster.client}",
        "--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder / 'r'}",
        "--min-worker-port=0", "--max-worker-port=0", *_COMMON,
    ]  # fmt: skip
    log = folder / "head.log"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        child = stack.enter_context(process(command, variables, log, folder))
        wait_for("the start of the head", lambda: _started(child, log), START_SECONDS, log)
        cluster = dataclasses.replace(cluster, head=child)
        for name in nodes:
            stack.enter_context(cluster.node(name))
        yield cluster


def processes_called(title: str) -> list[int]:
    """The ids of the processes whose title is `title`, as Ray sets it while a task runs."""
    ids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").strip() == title:
                ids.append(int(folder.name))
    return ids
