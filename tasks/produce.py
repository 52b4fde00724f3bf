"""One erased model outside of a run: made by a worker, written to a folder."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from audit.erasers.request import Request, fulfil
from tasks.progress import loss_reporter
from tasks.retrying import TASK
from tasks.slots import gpu_slot


@task(name="produce", task_run_name="produce-{request.method}", **TASK)
def produce(request: Request, out: str, device: str | None = None, slot: str | None = None) -> str:
    """Make the artefact; return its path. A retried or restarted task goes on from the last checkpoint in `out`."""
    with gpu_slot(slot):
        path, _ = fulfil(request, Path(out), device=device, listener=loss_reporter())
    return str(path)
