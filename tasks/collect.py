"""The corpus manifest: every object listed, hashed and decoded once, before anything is planned."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import pyarrow as pa
from prefect import task

from audit import run as steps
from audit.corpus.sources import is_litter, open_source
from audit.errors import AuditError
from audit.progress import warnings_to
from audit.progress.steps import listener
from audit.spec.sections import CorpusEntry
from tasks import telemetry
from tasks.context import Run
from tasks.progress import heard, reporter
from tasks.retrying import TASK

PATIENCE_SECONDS = 2.0  # a corpus that is read sooner is not counted


@task(name="collect", **TASK)
def collect(run: Run) -> pa.Table:
    """Build and store the manifest of the run; return it, one row per corpus object."""
    with telemetry.step("collect"), heard(), warnings_to(reporter().note), _Counting(run.spec.corpus) as counting:
        return steps.collect(run.spec, run.journal, run.run_id, counting.show)


class _Counting(contextlib.AbstractContextManager["_Counting"]):
    """The progress of a corpus that is listed while it is read.

    A second listing, in a thread of its own, says how much there is: a request to an object store for each thousand objects.
    """

    def __init__(self, entries: Sequence[CorpusEntry]) -> None:
        self._entries, self._ended = entries, threading.Event()
        self._total: int | None = None
        self._told = False
        self._thread = threading.Thread(target=self._count, name="count-corpus", daemon=True)

    def __enter__(self) -> _Counting:
        listener().begin("collect", None, 0, "objects")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        listener().end("collect")

    def show(self, done: int) -> None:
        """Show that so many objects are read."""
        if self._total is not None and not self._told:
            self._told = True
            listener().begin("collect", max(self._total, done), done - 1, "objects")
        listener().update("collect", done)

    def _count(self) -> None:
        if self._ended.wait(PATIENCE_SECONDS):
            return
        with contextlib.suppress(AuditError, OSError):  # whoever reads the corpus says so
            self._total = sum(1 for _ in self._objects())

    def _objects(self) -> Iterator[str]:
        """Yield the URI of every object that has a row in the manifest, until the corpus is read."""
        for entry in self._entries:
            source = open_source(entry.url)
            for listed in source.objects():
                if self._ended.is_set():
                    return
                if not is_litter(listed.uri, source.uri):
                    yield listed.uri
