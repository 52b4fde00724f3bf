"""Where units are computed: in this process, in several processes of this machine, or on a Ray cluster.

Every runner is one of Prefect's task runners behind one small protocol. `tasks.spread` keeps a runner busy.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Protocol

from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.tasks import Task

from audit.errors import EnvironmentProblem
from audit.machine import threads
from tasks.context import Settings
from tasks.fitness import MachineRefused
from tasks.pool_process import begin_process

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport

TRIES = 3  # times that a unit is given to a process again after it was lost with one


class Runner(Protocol):
    """Somewhere units are computed, several at once."""

    def slots(self) -> int:
        """Return the number of units that can be computed at once now; it may change."""

    def submit(self, task: Task[..., UnitReport], parameters: dict[str, object]) -> PrefectFuture[UnitReport]:
        """Begin to compute one unit."""

    def exclude(self, refused: MachineRefused) -> None:
        """Give no further unit to the machine that refused. Raises `EnvironmentProblem` when none is left."""

    def mend(self, error: BaseException) -> bool:
        """Return whether `error` lost a process and not a unit, so that the unit can be submitted again now."""

    @property
    def falls_together(self) -> bool:
        """Whether all units in flight are lost where one is."""


def require_runner(settings: Settings) -> None:
    """Return when the runner of `settings` is installed and has what it needs. Raises `EnvironmentProblem` otherwise."""
    if settings.runner != "ray":
        if settings.address:
            raise EnvironmentProblem(
                f"an address is only of use to the Ray runner, and the runner is {settings.runner!r}",
                where="--address",
                next_step="add --runner ray, or leave --address out",
            )
        return
    missing = [name for name in ("ray", "prefect_ray") if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"the Ray runner needs {' and '.join(missing)}, which this installation lacks",
            where="--runner ray",
            next_step="pip install 'erasure-audit[ray]', here and on every node",
        )
    if not settings.address:
        raise EnvironmentProblem(
            "the Ray runner needs the address of a cluster",
            where="--address or ERASURE_AUDIT_RAY_ADDRESS",
            next_step="name it, such as ray://head-node:10001; on one machine, --runner processes does without Ray",
        )
    if not get_current_settings().api.url:
        raise EnvironmentProblem(
            "a run on Ray needs a Prefect server that its nodes reach, and none is configured",
            where="PREFECT_API_URL",
            next_step="prefect server start --host 0.0.0.0, then set PREFECT_API_URL=http://THIS-HOST:4200/api",
        )


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Runner]:
    """Start the runner of `settings` and end it with the block. Raises `EnvironmentProblem` when it cannot start."""
    if settings.runner == "ray":
        from tasks.ray_runner import RayRunner

        with RayRunner.connected(settings) as ray:
            yield ray
        return
    with Processes(settings.workers) as processes:
        yield processes


class Processes(contextlib.AbstractContextManager["Processes"]):
    """Processes of this machine, each with its share of the cores, and a GPU of its own where there are some."""

    falls_together = True  # the pool ends with any one of its processes

    def __init__(self, workers: int | None) -> None:
        """Prepare `workers` processes: by default one for each GPU, and one for each core without any."""
        gpus = _gpus()
        self._count = workers or gpus or threads.usable_cores()
        self._gpus = gpus
        self._pool = self._started()

    def _started(self) -> ProcessPoolTaskRunner:
        given = (self._gpus, threads.share(self._count))
        pool = ProcessPoolTaskRunner(max_workers=self._count, initializer=begin_process, initargs=given)
        pool.__enter__()
        return pool

    def __exit__(self, *failure: object) -> None:
        self._pool.__exit__(None, None, None)

    def slots(self) -> int:
        """Return the number of processes."""
        return self._count

    def submit(self, task: Task[..., UnitReport], parameters: dict[str, object]) -> PrefectFuture[UnitReport]:
        """Give a unit to the next process that is free. Raises `BrokenProcessPool` when one was killed."""
        return self._pool.submit(task, parameters)

    def exclude(self, refused: MachineRefused) -> None:
        """Raise `EnvironmentProblem`: all processes run on the machine that refused."""
        raise EnvironmentProblem(
            f"this machine cannot compute the run: {refused.what}",
            where=refused.node,
            next_step=refused.next_step
            or "restore what the run was planned with, or start a new run: erasure-audit run SPEC",
        )

    def mend(self, error: BaseException) -> bool:
        """Return whether a process was killed; all are started anew then."""
        if not isinstance(error, BrokenProcessPool):
            return False
        self._pool.__exit__(None, None, None)
        self._pool = self._started()
        return True


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
