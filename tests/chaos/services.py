"""The servers of a campaign on loopback: Prefect on Postgres, and moto as S3. Each can be stopped and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.chaos.ray_services import RayCluster
from tests.chaos.zygote import FSYNC_LOG
from tests.flows.postgres import Cluster
from tests.flows.servers import clean_environment, process, wait_for
from tests.servers import environment, free_port

START_SECONDS = 300.0
REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "chaos-key", "chaos-secret"


class PrefectServer:
    """A Prefect server on a fixed port, with its records in `database`."""

    def __init__(self, home: Path, database: str) -> None:
        self._port = free_port()
        self._log = home.with_suffix(".server.log")
        self._api = f"http://127.0.0.1:{self._port}/api"
        self._environment = {
            **clean_environment(home),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PREFECT_UI_ENABLED": "false",
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
        }
        self._running = contextlib.ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of its clients."""
        return {**self._environment, "PREFECT_API_URL": self._api}

    def start(self) -> None:
        """Start it; it answers then."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting for its first answer."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        self._child = self._running.enter_context(process(command, self._environment, self._log, REPOSITORY))

    def wait(self) -> None:
        """Return when it answers. Raises AssertionError with the end of its log when it does not."""
        wait_for("the start of the Prefect server", self._healthy, START_SECONDS, self._log)

    def stop(self) -> None:
        """End its processes: soon by SIGTERM, otherwise by SIGKILL."""
        self._running.close()

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._child.kill()
        self.stop()

    def _healthy(self) -> bool:
        assert self._child.poll() is None, f"the server ended:\n{self._log.read_text(errors='replace')[-3000:]}"
        return httpx.get(f"{self._api}/health", timeout=2.0).status_code == 200


@contextlib.contextmanager
def moto_process(log: Path) -> Iterator[dict[str, str]]:
    """The environment of an S3 server in a process of its own, in memory, without buckets."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with process(command, clean_environment(log.parent / "moto"), log, REPOSITORY) as child:

        def listening() -> bool:
            assert child.poll() is None, f"the S3 server ended:\n{log.read_text(errors='replace')[-3000:]}"
            return httpx.get(f"{address}/moto-api/data.json", timeout=2.0).status_code == 200

        wait_for("the start of the S3 server", listening, START_SECONDS, log)
        yield environment(address, *KEY)


class Services:
    """All servers of a campaign, started when they are first needed.

    `nodes_port` is where the nodes of the Ray cluster, which outlive a round, look for S3: each round has its proxy there.
    `nodes_log` is where the cluster's processes note their fsyncs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes_port, self.nodes_log = free_port(), folder / "nodes.fsyncs"
        self._opened = contextlib.ExitStack()
        self._s3: dict[str, str] | None = None
        self._ray: RayCluster | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.postgres = Cluster()
        self._opened.callback(self.postgres.remove)
        self.postgres.start()
        self._opened.callback(self._stop_postgres)
        self.prefect = PrefectServer(folder / "prefect", self.postgres.url)
        self._opened.callback(self.prefect.stop)
        self.prefect.start()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    @property
    def s3(self) -> dict[str, str]:
        """Return the variables of clients of the S3 server."""
        if self._s3 is None:
            self._s3 = self._opened.enter_context(moto_process(self._folder / "moto.log"))
        return self._s3

    @property
    def ray(self) -> RayCluster:
        """Return the Ray cluster, whose processes know the Prefect server and where S3 would be."""
        if self._ray is None:
            s3 = environment(f"http://127.0.0.1:{self.nodes_port}", *KEY)
            self._ray = RayCluster({**self.prefect.environment, **s3, FSYNC_LOG: str(self.nodes_log)})
            self._opened.callback(self._ray.close)
        return self._ray

    def _stop_postgres(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.postgres.stop("immediate")
