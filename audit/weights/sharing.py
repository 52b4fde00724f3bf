"""Share the weights of a run through its storage root, for machines that lack them: files by digest, each stored once.

The machine that plans a run stores the files of its models and judges below `weights/`, and which reference means which of
them with the run. Another machine fetches what it does not have into its cache, checks every digest, and takes the copies
for what the spec names. What a machine has itself is never replaced.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from audit import locations
from audit.errors import CheckpointError, JournalError
from audit.files import Document, ForeignError, parse_json, place, shared
from audit.identity import file_sha256, key
from audit.progress.steps import counted
from audit.storage.journal import Journal
from audit.weights.files import cached_sha256
from audit.weights.hub_names import hub_name

CONFIG_MARK = "#config="  # between the file of a pipeline and the folder with its settings
_RECORD = "weights.json"
_DIGEST_CHARACTERS = frozenset("0123456789abcdef")

_copies: dict[str, Path] = {}  # reference as specs write it -> a fetched copy on this machine


@dataclasses.dataclass(frozen=True)
class SharedModel:
    """The files of one model or checkpoint: name below its folder -> hex SHA-256."""

    reference: str  # as the spec writes it
    files: Mapping[str, str]
    single: str | None  # the file that the reference means; None for a folder
    # Files outside of the folder, and where they lie.
    elsewhere: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return a name for the copy that depends on its content alone."""
        return key(dict(self.files))


def copy_of(reference: str) -> Path | None:
    """Return the copy that this process fetched for a reference; None when it fetched none."""
    return _copies.get(reference)


def path_of(reference: str) -> Path:
    """Return where a reference lies on this machine: the copy that this process fetched, or else the path that it names."""
    return copy_of(reference) or Path(os.path.expanduser(reference))


def shared_path(reference: str, path: Path) -> tuple[SharedModel, Path] | None:
    """Return a file, or all files of a folder, at `path`, and the folder that they lie in; None for neither."""
    if path.is_file():
        return SharedModel(reference, {path.name: cached_sha256(path)}, path.name), path.parent
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        return SharedModel(
            reference, {one.relative_to(path).as_posix(): cached_sha256(one) for one in files}, None
        ), path
    return None


def share(journal: Journal, run_id: str, models: Iterable[tuple[SharedModel, Path]]) -> int:
    """Store the files of `models`, each with its folder, for other machines; return the number of files that were new."""
    chosen = list(models)
    files = {
        f"weights/{digest}": model.elsewhere.get(name, folder / name)
        for model, folder in chosen
        for name, digest in model.files.items()
    }
    new = sum(journal.store.put_file(*file) for file in counted(files.items(), "share weights", len(files), "files"))
    record = {model.reference: {"files": dict(model.files), "single": model.single} for model, _ in chosen}
    journal.put_run(run_id, _RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
    return new


def adopt(journal: Journal, run_id: str) -> list[str]:
    """Fetch the shared models of a run that this machine lacks; return their references.

    Raises `CheckpointError` for a file whose content is not what its name says, `JournalError` when the storage does not
    answer or the record is damaged.
    """
    if not journal.store.exists(f"runs/{run_id}/{_RECORD}"):
        return []
    fetched = []
    for model in _record(journal, run_id):
        if _is_here(model.reference):
            continue
        _copies[model.reference] = _fetched(journal, model)
        fetched.append(model.reference)
    return fetched


def _is_here(reference: str) -> bool:
    """Return whether a reference needs no copy: the testbed's are part of the package, others are files of this machine or
    in its cache of the hub.
    """
    named = reference.split(CONFIG_MARK) if CONFIG_MARK in reference else [reference]
    return all(
        name.partition("/")[0] == "testbed" or Path(os.path.expanduser(name)).exists() or _is_cached(name)
        for name in named
    )


def _is_cached(name: str) -> bool:
    from audit.weights import hub_cache

    hub = hub_name(name)
    if hub is None or hub.commit is None or not hub.inside:  # of a whole repository, the cache may hold a part
        return False
    try:
        folder = hub_cache.cached_snapshot(hub.repo, hub.commit)
    except CheckpointError:
        return False
    return folder is not None and (folder / hub.inside).is_file()


def _fetched(journal: Journal, model: SharedModel) -> Path:
    folder = locations.cache_folder() / "weights" / model.digest
    for name, digest in counted(model.files.items(), "fetch weights", len(model.files), "files"):
        path = folder / name
        if not (path.is_file() and cached_sha256(path) == digest):
            place(path, functools.partial(_fetch, journal, digest), unfinished=shared(path))
    return folder / model.single if model.single else folder


def _fetch(journal: Journal, digest: str, unfinished: Path) -> None:
    journal.store.fetch(f"weights/{digest}", unfinished)
    if file_sha256(unfinished) != digest:
        raise CheckpointError(
            "a shared weight file is not what its name says",
            where=journal.store.url(f"weights/{digest}"),
            next_step="remove it, then share it again: erasure-audit resume RUN_ID --share-weights",
        )


def _record(journal: Journal, run_id: str) -> list[SharedModel]:
    try:
        document = parse_json(journal.get_run(run_id, _RECORD))
        return [_model(reference, entry) for reference, entry in document.items()]
    except (ForeignError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise JournalError(
            f"the list of shared weights is damaged: {' '.join(str(error).split())[:200]}",
            where=f"run {run_id}",
            next_step=f"write it again: erasure-audit resume {run_id} --share-weights",
        ) from None


def _model(reference: str, entry: Document) -> SharedModel:
    files, single = entry["files"], entry["single"]
    for name, digest in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or len(digest) != 64 or set(digest) - _DIGEST_CHARACTERS:
            raise ValueError(f"{name!r} is no file of a model")
    if single is not None and single not in files:
        raise ValueError(f"{single!r} is none of its files")
    return SharedModel(reference, files, single)
