"""Keep the checkpoints of trainings inside a run: a local folder for each unit, removed when the unit is journalled."""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from audit import locations
from audit.files import NoLocks, try_lock
from audit.plan.identities import AttackIdentity, EraseIdentity, Unit
from audit.progress import Listener, Session, Silent

_LENGTHS = {
    "iterations",
    "generations",
    "checkpoints",
}  # parameters of what takes long and can be continued: training, and searches


@contextlib.contextmanager
def training_session(unit: Unit, listener: Listener | None = None, *, ends: bool = True) -> Iterator[Session]:
    """Open a block that computes and journals a unit. A unit that trains continues where an earlier process was interrupted.

    The checkpoints are removed when the block ends without an error, unless the unit `ends` later. While another
    process of this machine trains the same unit, or where the cache folder cannot be written, nothing is kept and a
    note says so.
    """
    listener = listener or Silent()
    described = unit.identity
    trains = isinstance(described, EraseIdentity | AttackIdentity) and not _LENGTHS.isdisjoint(described.parameters)
    if not trains:  # a checkpoint, a closed form, or no training at all: nothing to go on with
        yield Session(listener=listener)
        return
    folder = locations.trainings_folder() / unit.key
    with _held(folder, listener) as held:
        yield Session(folder if held else None, listener)
        if held and ends:
            shutil.rmtree(folder, ignore_errors=True)


def trained_elsewhere(unit: Unit) -> bool:
    """Return whether another process of this machine is training the unit now."""
    folder = locations.trainings_folder() / unit.key
    with _locked(folder) as lock:
        return lock is _Lock.ELSEWHERE


def sweep(units: Iterable[Unit]) -> None:
    """Remove the checkpoint folders of complete units, which another process may have finished."""
    for unit in units:
        folder = locations.trainings_folder() / unit.key
        with _locked(folder) as lock:
            if lock is _Lock.OURS:
                shutil.rmtree(folder, ignore_errors=True)


class _Lock(enum.Enum):
    OURS = "no other process trains in the folder"
    ELSEWHERE = "another process does"
    UNKNOWN = "nobody can tell: the file system has no locks"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[_Lock]:
    """Open a block with the state of the lock on `folder`, which need not exist. No other process trains there when it
    is `OURS`.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        yield _Lock.OURS if isinstance(error, FileNotFoundError) else _Lock.ELSEWHERE
        return
    try:
        try:
            lock = _Lock.OURS if try_lock(handle) else _Lock.ELSEWHERE
        except NoLocks:
            lock = _Lock.UNKNOWN
        yield lock
    finally:
        os.close(handle)


@contextlib.contextmanager
def _held(folder: Path, listener: Listener) -> Iterator[bool]:
    """Open a block in which this process alone writes into `folder`; False when it may not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.listdir(folder)
    except OSError as error:
        listener.note(f"{folder} cannot be written ({error.strerror}): an interrupted training will begin anew")
        yield False
        return
    with _locked(folder) as lock:
        # Two workers write the same unit with the same content, but never the same checkpoint file.
        if lock is _Lock.ELSEWHERE:
            listener.note("another process trains this model too; this one keeps no checkpoints")
        elif lock is _Lock.UNKNOWN:
            listener.note(f"{folder} is on a file system without locks: an interrupted training will begin anew")
        yield lock is _Lock.OURS
