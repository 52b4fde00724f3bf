"""A machine computes units of a run only with the versions, code and weights that the run has elsewhere."""

from __future__ import annotations

import functools
import socket
import sys

from audit.errors import AuditError, JournalError
from audit.plan.installation import SHOWN, Installation, differences, installation
from audit.storage.errors import StorageUnavailable
from audit.weights.sharing import adopt
from tasks import pool_process
from tasks.context import Run


class MachineRefused(Exception):
    """A machine that must not compute units of a run; the unit that it was given is not journalled.

    `next_step` is what helps there; without one it is what the run was planned with that is missing.
    """

    def __init__(self, node: str, host: str, what: str, next_step: str | None = None) -> None:
        self.node, self.host, self.what, self.next_step = node, host, what, next_step
        super().__init__(node, host, what, next_step)

    def __str__(self) -> str:
        return f"{self.host} computes nothing more of this run: {self.what}"


def require_fit(run: Run, expected: Installation) -> None:
    """Return when this process may compute units of `run`, asked once. Raises `MachineRefused` otherwise."""
    problem = _problem(run, tuple(sorted(expected.items())))
    if problem is not None:
        raise refusal(problem)
    # A GPU that is gone stays among the resources that Ray hands out on its node, and was counted when a pool was started.
    on_ray = _gpus_of_ray()
    if run.settings.device is None and (on_ray or pool_process.has_gpu()) and run.worker.device.type == "cpu":
        raise refusal(
            "a process was given a GPU, and torch finds none",
            "look at nvidia-smi there and go on with: erasure-audit resume RUN_ID; "
            f"to compute on CPUs: --device cpu{' --gpus-per-unit 0' if on_ray else ''}",
        )


def refusal(why: str, next_step: str | None = None) -> MachineRefused:
    """Return the error that keeps units of the run off this machine from now on."""
    return MachineRefused(_node(), socket.gethostname(), why, next_step)


@functools.lru_cache(maxsize=1)
def _problem(run: Run, expected: tuple[tuple[str, str], ...]) -> str | None:
    try:
        if not run.planned:
            return f"it does not see the run at {run.root}; the storage root must be one that all machines share"
        adopt(run.journal, run.run_id)
        unlike = differences(installation(run.plan.spec), dict(expected))
        if unlike:
            more = f" and {len(unlike) - SHOWN} more" if len(unlike) > SHOWN else ""
            return "; ".join(unlike[:SHOWN]) + more
        _ = run.worker
    except StorageUnavailable:
        raise  # it may answer later
    except JournalError as error:
        return f"it cannot read the run at {run.root}: {error.what}"
    except AuditError as error:
        return error.what
    return None


def _gpus_of_ray() -> bool:
    """Return whether Ray has given this process a GPU."""
    if "ray" not in sys.modules:
        return False
    from tasks.ray_runner import gpus_here

    return bool(gpus_here())


def _node() -> str:
    if "ray" in sys.modules:
        from tasks.ray_runner import node_here

        return node_here()
    return socket.gethostname()
