"""The files of two raters, checked against the task that they were given."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Sequence
from pathlib import Path

from audit.errors import JournalError, LabelsError
from audit.files import ForeignError, read_bounded
from audit.labels import documents
from audit.labels.documents import Exported, RaterFile, Task
from audit.labels.export import TASK_FILE, record_name
from audit.labels.pool import judges_of
from audit.names import folded
from audit.storage.journal import Journal

_MOST_BYTES = 50_000_000
_SKEW = dt.timedelta(days=1)  # between the clocks of a rater and of this machine
_MEND = "name the file that the labelling page has saved"


@dataclasses.dataclass(frozen=True)
class Labelling:
    """A task with the files of its two raters; both label every picture."""

    exported: Exported
    raters: tuple[RaterFile, RaterFile]


def read_labelling(
    journal: Journal, run_id: str, paths: Sequence[Path], folder: Path | None, now: dt.datetime
) -> Labelling:
    """Return the labels of two raters of a run. Raises `LabelsError` for anything that makes them none of this task.

    `folder` is the exported one, whose pictures must be those that were exported; without it the folder of each file is
    looked at, where it is one.
    """
    if len(paths) != 2:
        raise LabelsError(
            f"the labels of two raters are needed, and {len(paths)} file{'s' if len(paths) != 1 else ''} given: one person's "
            "mistakes could not be told from the judge's",
            next_step="erasure-audit labels import RUN_ID FILE FILE",
        )
    first, second = (_read(path) for path in paths)
    for path, file in zip(paths, (first, second), strict=True):
        _require_run(file, run_id, path)
    exported = _exported(journal, run_id, first, paths[0])
    if second.task != first.task:
        raise LabelsError(
            "the two files are of different tasks: the pictures are not the same",
            where=f"{paths[0]}, {paths[1]}",
            next_step="import the files of two raters of one exported folder",
        )
    if folded(first.rater) == folded(second.rater):
        raise LabelsError(
            f"both files are by {first.rater!r}: two different people are needed",
            where=f"{paths[0]}, {paths[1]}",
            next_step="let somebody else label the same folder, under a name of their own",
        )
    for path, file in zip(paths, (first, second), strict=True):
        _require_whole(file, exported.task, path)
        _require_time(file, exported.task, path, now)
        _require_pictures(exported.task, folder or path.parent, given=folder is not None)
    return Labelling(exported, (first, second))


def _read(path: Path) -> RaterFile:
    try:
        data = read_bounded(path, _MOST_BYTES)
    except (OSError, ForeignError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LabelsError(f"the labels cannot be read: {reason}", where=str(path), next_step=_MEND) from None
    return documents.parse(RaterFile, data, str(path), _MEND)


def _require_run(file: RaterFile, run_id: str, path: Path) -> None:
    if file.run_id != run_id:
        raise LabelsError(
            f"these are labels of another run: {file.run_id[:128]!r}, not {run_id!r}",
            where=str(path),
            next_step="name the run that the pictures were exported from",
        )


def _exported(journal: Journal, run_id: str, file: RaterFile, path: Path) -> Exported:
    """Return the task as it was exported. What is stored is checked against the digests that it and the rater's file carry."""
    unknown = LabelsError(
        "these are labels of another task: none with this digest was exported of this run below this storage root",
        where=str(path),
        next_step="name the storage root that it was exported from with --root, or export a task: erasure-audit labels export",
    )
    try:
        data = journal.get_run(run_id, record_name(file.task))
    except JournalError:
        raise unknown from None
    name = journal.store.url(f"runs/{run_id}/{record_name(file.task)}")
    exported = documents.parse(Exported, data, name, "export the pictures again: erasure-audit labels export")
    task = exported.task
    if task.digest() != file.task or exported.record.digest() != task.record or task.run_id != run_id:
        raise LabelsError(
            "the stored task is not the one that the raters were given: it was changed after it was exported",
            where=name,
            next_step="export the pictures again and have them labelled: erasure-audit labels export",
        )
    known = judges_of(journal, run_id)
    if changed := [judge for judge in exported.record.judges if judge not in known]:
        raise LabelsError(
            f"these are labels for another judge: {changed[0].detector!r} of this run has other weights, labels or another "
            f"threshold now than when the pictures were exported",
            where=str(path),
            next_step="export the pictures again and have them labelled: erasure-audit labels export",
        )
    return exported


def _require_whole(file: RaterFile, task: Task, path: Path) -> None:
    known = {picture.id for picture in task.pictures}
    if missing := known - file.labels.keys():
        raise LabelsError(
            f"the file is unfinished: {len(missing)} of {len(known)} pictures have no label",
            where=str(path),
            next_step=f"let {file.rater} open the page again, label the rest and save",
        )
    if strange := sorted(file.labels.keys() - known):
        raise LabelsError(
            f"the file labels {len(strange)} picture{'s' if len(strange) != 1 else ''} that the task does not have, such as "
            f"{strange[0][:40]!r}",
            where=str(path),
            next_step=_MEND,
        )


def _require_time(file: RaterFile, task: Task, path: Path, now: dt.datetime) -> None:
    started, saved, exported = (
        dt.datetime.fromisoformat(t) for t in (file.started_at, file.saved_at, task.exported_at)
    )
    if saved > now + _SKEW:
        problem = f"the file was saved in the future, at {file.saved_at}"
    elif started < exported - _SKEW:
        problem = f"the labelling began at {file.started_at}, before the pictures were exported at {task.exported_at}"
    elif saved < started:
        problem = f"the file was saved at {file.saved_at}, before the labelling began at {file.started_at}"
    else:
        return
    raise LabelsError(problem, where=str(path), next_step="set the clock of that machine, then save the file again")


def _require_pictures(task: Task, folder: Path, *, given: bool) -> None:
    """Return when the folder's pictures are those that were exported, or it is no exported folder at all."""
    if not given and not (folder / TASK_FILE).is_file():
        return
    for picture in task.pictures:
        if picture.file is None:
            continue
        path = folder / picture.file
        try:
            same = hashlib.sha256(read_bounded(path, _MOST_BYTES)).hexdigest() == picture.file_sha256
        except (OSError, ForeignError):
            same = False
        if not same:
            raise LabelsError(
                "a picture of the folder was edited, replaced or removed since it was exported: what was labelled may not be "
                "what the judges saw",
                where=str(path),
                next_step="export the pictures again and have them labelled: erasure-audit labels export",
            )
