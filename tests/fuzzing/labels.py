"""Boundaries of labelling: a rater's file, the task that is kept with the run, and labels that are stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from audit import run as steps
from audit.labels.calibrating import calibrations
from audit.labels.drawing import Sizes
from audit.labels.export import export
from audit.labels.raters import read_labelling
from audit.labels.stored import joined, store
from audit.labels.summary import agreements, judge_errors, reviews
from audit.report.pictures import blurred_thumbnail
from audit.storage.journal import Journal
from tests.fuzzing.harness import Boundary, Opened
from tests.labels import runs


def _labelled(chosen: Callable[[Path, Path, Path], Path]) -> Callable[[Path], Opened]:
    """A run whose pictures two raters have labelled, one of whose files is mutated, read as `labels import` and `gate` do."""

    def open_boundary(folder: Path) -> Opened:
        root, out, now = folder / "runs", folder / "out", dt.datetime.now(dt.UTC)
        made = runs.written(root, runs.Pictured(planned=24))
        journal = Journal(str(root))
        published = steps.consolidate(journal, "run-1", folder / "audit.duckdb")
        export(journal, "run-1", published, out, Sizes(), 0, now, blurred_thumbnail)
        paths = [runs.rater_file(out, name, runs.honest(made.truth)) for name in ("Ann", "Bo")]
        digest, _ = store(journal, joined(read_labelling(journal, "run-1", paths, None, now)))
        (task,) = (root / "runs/run-1").glob("label-task-*")
        path = chosen(paths[1], task, root / f"labels/{digest}.json")

        def attempt(data: bytes) -> object:
            path.write_bytes(data)
            labels = joined(read_labelling(journal, "run-1", paths, None, now))
            known = calibrations(journal, "run-1")
            return known, agreements(labels), judge_errors(labels), reviews(labels)

        return Opened([path.read_bytes()], attempt)

    return open_boundary


BOUNDARIES = (
    Boundary("a rater's labels", _labelled(lambda rater, task, stored: rater), slow_count=500),
    Boundary("a stored labelling task", _labelled(lambda rater, task, stored: task), slow_count=500),
    Boundary("stored labels", _labelled(lambda rater, task, stored: stored), slow_count=500),
)
