"""`python -m tests.flows.ray_processes ADDRESS`: print which process computed each of three tasks, one after the other."""

from __future__ import annotations

import os
import sys

from prefect import flow, task

from tasks.context import Settings
from tasks.ray_runner import RayRunner


@task
def process_id() -> int:
    """Return the id of the process that computes this task."""
    return os.getpid()


@flow(persist_result=False)
def three(address: str) -> list[int]:
    """Return the process of each task."""
    with RayRunner.connected(Settings(runner="ray", address=address)) as runner:
        return [runner.submit(process_id, {}).result() for _ in range(3)]  # type: ignore[arg-type, misc]


if __name__ == "__main__":
    print(*three(sys.argv[1]))
