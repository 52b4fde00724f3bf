"""One erased model outside of a run: made by a worker, written to a folder."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.logging import get_run_logger

from audit.erasers.request import Request, fulfil
from tasks.progress import LogReporter, reporter
from tasks.retrying import TASK
from tasks.slots import gpu_slot


class _Losses(LogReporter):
    """A worker's log, in which a loss is no warning."""

    def note(self, text: str) -> None:
        """Log a line."""
        get_run_logger().info(text)


@task(name="produce", task_run_name="produce-{request.method}", **TASK)
def produce(request: Request, out: str, device: str | None = None, slot: str | None = None) -> str:
    """The artefact's path; a retried or restarted task goes on from the last checkpoint in `out`."""
    shown = reporter()
    with gpu_slot(slot):
        listener = _Losses() if isinstance(shown, LogReporter) else shown
        path, _ = fulfil(request, Path(out), device=device, listener=listener)
    return str(path)
