"""A labelling task as a folder: pictures, one page that works from disk, and the task's own document."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from audit.corpus import images
from audit.errors import JournalError, LabelsError
from audit.files import place
from audit.identity import key
from audit.labels import pool
from audit.labels.documents import Exported, Judge, Question, Record, RecordedPicture, Sample, Task, TaskPicture
from audit.labels.drawing import Drawing, Sizes, draw
from audit.labels.page import page
from audit.labels.pool import Seen
from audit.progress.steps import counted
from audit.storage.disclosure import record_disclosure
from audit.storage.journal import Journal

TASK_FILE, PAGE_FILE = "task.json", "index.html"
_PICTURES = "pictures"


@dataclasses.dataclass(frozen=True)
class Folder:
    """What was exported, and where to."""

    path: Path
    task: Task
    blurred: int
    withheld: int  # could not be blurred


def export(
    journal: Journal,
    run_id: str,
    published: Path,
    folder: Path,
    sizes: Sizes,
    seed: int,
    now: dt.datetime,
    blur: Callable[[bytes], bytes],
    *,
    show_sensitive: bool = False,
) -> Folder:
    """Write the pictures of a run that two raters are to label into a new `folder`, and keep what judges said of them.

    `blur` makes a blurred JPEG of a picture's bytes. Sensitive pictures are blurred, and withheld where that fails, unless
    `show_sensitive`, which is put on record. Raises `LabelsError` for a folder that is in use and for too few pictures.
    """
    _require_new(folder)
    drawing = draw(pool.pictures(published, run_id), sizes, seed)
    judges = pool.judges_of(journal, run_id)
    hide = (
        frozenset()
        if show_sensitive
        else frozenset(seen.pixel_sha256 for seen, _ in drawing.pictures if seen.sensitive)
    )
    try:
        (folder / _PICTURES).mkdir(parents=True)
        if show_sensitive and any(seen.sensitive for seen, _ in drawing.pictures):
            record_disclosure(journal, run_id, str(folder), now)  # before any of them is written
        files = _write_pictures(journal, drawing, folder, hide, blur)
        exported = _documents(run_id, drawing, judges, files, seed, now)
        journal.put_run(run_id, record_name(exported.task.digest()), exported.encoded())
        place(folder / TASK_FILE, lambda path: path.write_bytes(exported.task.encoded()))
        place(folder / PAGE_FILE, lambda path: path.write_text(page(exported.task), encoding="utf-8"))
    except OSError as error:
        raise LabelsError(
            f"the folder cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="name another with --to",
        ) from None
    withheld = sum(file is None for file in files.values())
    return Folder(folder, exported.task, len(hide) - withheld, withheld)


def record_name(task_digest: str) -> str:
    """Return the name of the run file that keeps a task and what raters must not see of it."""
    return f"label-task-{task_digest[:32]}.json"


def _require_new(folder: Path) -> None:
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise LabelsError(
            f"the folder cannot be read: {error.strerror}", where=str(folder), next_step="name another with --to"
        ) from None
    if used:
        raise LabelsError(
            "the folder is in use: another task's pictures would be mixed with these",
            where=str(folder),
            next_step="name a new folder with --to",
        )


def _write_pictures(
    journal: Journal, drawing: Drawing, folder: Path, hide: frozenset[str], blur: Callable[[bytes], bytes]
) -> dict[str, tuple[str, str] | None]:
    """Write each picture once; pixel digest -> (path in the folder, SHA-256 of the file), None for one that is withheld.

    A shown picture is written as PNG with the very pixels that the judges saw, a hidden one as a small blurred JPEG.
    """
    files: dict[str, tuple[str, str] | None] = {}
    for seen, pixels in _pixels(journal, drawing):
        name = key({"picture": seen.pixel_sha256})[:16]
        try:
            hidden = seen.pixel_sha256 in hide
            data = blur(images.encode_png(pixels)) if hidden else images.encode_png(pixels)
        except Exception:  # fails closed: whatever goes wrong, the picture is not shown
            files[seen.pixel_sha256] = None
            continue
        path = f"{_PICTURES}/{name}.{'jpg' if hidden else 'png'}"
        (folder / path).write_bytes(data)
        files[seen.pixel_sha256] = (path, hashlib.sha256(data).hexdigest())
    return files


def _pixels(journal: Journal, drawing: Drawing) -> list[tuple[Seen, images.Pixels]]:
    """Return every drawn picture once with its pixels, each unit read once.

    Raises `JournalError` when a picture is gone, or is not the one that the judges saw.
    """
    by_unit: dict[str, dict[int, Seen]] = {}
    for seen in {seen.pixel_sha256: seen for seen, _ in drawing.pictures}.values():
        by_unit.setdefault(seen.unit_key, {})[seen.image_id] = seen
    pictures = []
    for unit_key, wanted in counted(by_unit.items(), "read pictures", len(by_unit), "units"):
        rows = journal.read("generate", unit_key, ["image_id", "image"]).to_pylist()
        stored = {row["image_id"]: (row["image"] or {}).get("bytes") for row in rows if row["image_id"] in wanted}
        for image_id, seen in wanted.items():
            pictures.append((seen, _decoded(stored.get(image_id), seen)))
    return pictures


def _decoded(data: bytes | None, seen: Seen) -> images.Pixels:
    where = f"unit generate/{seen.unit_key}, picture {seen.image_id}"
    if not data:
        raise JournalError(
            "the pixels of a picture are no longer in the journal",
            where=where,
            next_step="label a run whose pictures were not purged",
        )
    try:
        pixels = images.decode_stored(data)
    except ValueError as error:
        raise JournalError(
            f"a picture of the journal is damaged: {error}",
            where=where,
            next_step="check the run with: erasure-audit doctor",
        ) from None
    if images.pixel_sha256(pixels) != seen.pixel_sha256:
        raise JournalError(
            "a picture of the journal is not the one that the judges saw",
            where=where,
            next_step="delete the unit's file, then compute it again with: erasure-audit resume RUN_ID",
        )
    return pixels


def _documents(
    run_id: str,
    drawing: Drawing,
    judges: list[Judge],
    files: Mapping[str, tuple[str, str] | None],
    seed: int,
    now: dt.datetime,
) -> Exported:
    """Return task and record. Pictures are shuffled within their concept, so that the question changes rarely."""
    salt = secrets.token_hex(16)
    shuffled = sorted(drawing.pictures, key=lambda chosen: (chosen[0].concept, _id(salt, chosen[0])))
    record = Record.new(
        salt=salt,
        judges=tuple(judge for judge in judges if any(seen.concept == judge.concept for seen, _ in shuffled)),
        pictures=tuple(_recorded(salt, seen, sample) for seen, sample in shuffled),
    )
    phrases = {judge.concept: judge.phrase for judge in judges}
    concepts = sorted({seen.concept for seen, _ in shuffled})
    task = Task.new(
        run_id=run_id,
        exported_at=now.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        seed=seed,
        questions=tuple(Question(name=name, phrase=phrases[name]) for name in concepts),
        strata=drawing.strata,
        pictures=tuple(_shown(salt, seen, files[seen.pixel_sha256]) for seen, _ in shuffled),
        record=record.digest(),
    )
    return Exported.new(task=task, record=record)


def _id(salt: str, seen: Seen) -> str:
    """Return a picture's id, which tells nothing to who has not got the salt."""
    return key({"salt": salt, "concept": seen.concept, "domain": seen.domain, "pixels": seen.pixel_sha256})[:16]


def _recorded(salt: str, seen: Seen, sample: Sample) -> RecordedPicture:
    return RecordedPicture(
        id=_id(salt, seen),
        concept=seen.concept,
        pixel_sha256=seen.pixel_sha256,
        domain=seen.domain,
        sample=sample,
        defended=seen.defended,
        outcomes=seen.outcomes,
    )


def _shown(salt: str, seen: Seen, file: tuple[str, str] | None) -> TaskPicture:
    path, digest = file or (None, None)
    return TaskPicture(
        id=_id(salt, seen), concept=seen.concept, pixel_sha256=seen.pixel_sha256, file=path, file_sha256=digest
    )
