"""Units on a Ray cluster, through Prefect's Ray task runner."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import ray
from prefect.futures import PrefectFuture
from prefect.tasks import Task
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options
from ray import exceptions

from audit.errors import EnvironmentProblem
from audit.machine import telemetry
from tasks.context import Settings
from tasks.fitness import MachineRefused

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport

CONNECT_SECONDS = 5.0
LOOK_SECONDS = 5.0  # how often the cluster is asked what it has now: nodes come and go
RETRIES = 3  # times that Ray computes a unit again after its process or node was lost
_LOST = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.LocalRayletDiedError)


class RayRunner:
    """A connected Ray cluster."""

    falls_together = False

    def __init__(self, runner: RayTaskRunner[UnitReport], settings: Settings) -> None:
        """Take on a runner that is started. Raises `EnvironmentProblem` when no node could ever compute a unit."""
        self._runner, self._address = runner, settings.address
        self._cpus = settings.cpus_per_unit
        self._asked: float | None = None
        self._excluded: set[str] = set()
        self._slots = 0
        gpus = any(resources.get("GPU") for resources in self._nodes())
        self._gpus = (1.0 if gpus else 0.0) if settings.gpus_per_unit is None else settings.gpus_per_unit
        if not self.slots():
            wanted = f"{self._cpus:g} CPUs" + (f" and {self._gpus:g} GPUs" if self._gpus else "")
            raise EnvironmentProblem(
                f"no node of the Ray cluster has {wanted} for a unit",
                where=str(settings.address),
                next_step="start nodes that have them (ray start --num-cpus), or ask for less: --cpus-per-unit 0.5",
            )

    @classmethod
    @contextlib.contextmanager
    def connected(cls, settings: Settings) -> Iterator[RayRunner]:
        """Connect to the cluster of `settings` for the block. Raises `EnvironmentProblem` when it does not answer."""
        address = str(settings.address)
        _require_listening(address)
        options = {"logging_level": logging.WARNING, "log_to_driver": False, "runtime_env": {"env_vars": _variables()}}
        with contextlib.ExitStack() as stack:
            for last in (False, True):
                runner: RayTaskRunner[UnitReport] = RayTaskRunner(address=address, init_kwargs=options)
                try:
                    stack.enter_context(runner)
                    break
                except ConnectionAbortedError as error:
                    # The head answers, but has not started the server of this connection in time.
                    if last:
                        raise EnvironmentProblem(
                            f"the head of the Ray cluster could not take the run on: {_first_of(error)}",
                            where=address,
                            next_step="try again when the head has less to do; its logs say more (ray_client_server_*.err)",
                        ) from error
                    time.sleep(CONNECT_SECONDS)
                except Exception as error:  # Ray's, grpc's and the operating system's own
                    raise _no_cluster(address, _first_of(error)) from error
            yield cls(runner, settings)

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node that is alive and has not refused the run."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return [node["Resources"] for node in nodes if node["NodeID"] not in self._excluded]

    def slots(self) -> int:
        """Return the number of units that the nodes of now can compute at once. Raises `EnvironmentProblem` without a cluster."""
        if self._asked is None or time.monotonic() - self._asked > LOOK_SECONDS:
            try:
                self._slots = sum(map(self._on_node, self._nodes()))
            except Exception as error:  # Ray's and grpc's own
                raise EnvironmentProblem(
                    "the connection to the Ray cluster was lost; what is computed is kept",
                    where=str(self._address),
                    next_step="start the cluster again (ray start --head), then: erasure-audit resume RUN_ID",
                ) from error
            self._asked = time.monotonic()
        return self._slots

    def _on_node(self, resources: Mapping[str, float]) -> int:
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        return min(int(resources.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)

    def submit(self, task: Task[..., UnitReport], parameters: dict[str, object]) -> PrefectFuture[UnitReport]:
        """Let Ray compute a unit on a node that has its resources and has not refused the run."""
        options: dict[str, object] = {
            "num_cpus": self._cpus, "num_gpus": self._gpus, "max_retries": RETRIES,
            "max_calls": 0,  # else Ray ends a process after each task on a GPU, and with it the models it holds
        }  # fmt: skip
        if self._excluded:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._excluded))})"}
        try:
            with remote_options(**options):
                return self._runner.submit(task, parameters)
        except Exception:
            self._asked = None
            self.slots()  # says so when it is the cluster that has gone
            raise

    def exclude(self, refused: MachineRefused) -> None:
        """Give no further unit to a node. Raises `EnvironmentProblem` when none is left that could compute one."""
        self._excluded.add(refused.node)
        self._asked = None
        if not self.slots():
            raise EnvironmentProblem(
                f"no node of the Ray cluster can compute this run: {refused.what}",
                where=str(self._address),
                next_step=refused.next_step
                or "install on every node what the run was planned with, then: erasure-audit resume RUN_ID",
            )

    def mend(self, error: BaseException) -> bool:
        """Return whether a process or node was lost more often than Ray itself tries again."""
        return isinstance(error, _LOST)


def node_here() -> str:
    """Return the id of the Ray node that this process runs on; this machine's name outside of Ray."""
    if ray.is_initialized():
        return str(ray.get_runtime_context().get_node_id())
    return socket.gethostname()


def gpus_here() -> list[str]:
    """Return the ids of the GPUs that Ray has given this process; none outside of Ray."""
    if ray.is_initialized():
        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    return []


def _variables() -> dict[str, str]:
    """Return the settings that workers need before they import anything: no telemetry, and this program's own."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("ERASURE_AUDIT_")}
    return {**{name: os.environ.get(name, value) for name, value in telemetry.OFF.items()}, **ours}


def _require_listening(address: str) -> None:
    """Return when something listens at `address`: Ray itself would try for half a minute and then print for long."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if address == "auto":
        return
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "ray":
        raise EnvironmentProblem(
            f"{address!r} is no address of a Ray cluster",
            where="--address",
            next_step="write ray://head-node:10001, head-node:6379 from one of its nodes, or auto",
        )
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from None


def _first_of(error: Exception) -> str:
    """Return the beginning of what an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _no_cluster(address: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the Ray cluster does not answer: {why}",
        where=address,
        next_step="start it (ray start --head) or correct --address; of a cluster with tokens, set RAY_AUTH_TOKEN as it does",
    )
