"""Let one process at a time write the index; the others wait a stated time."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from audit.errors import EnvironmentProblem, StoreError
from audit.files import NoLocks, try_lock
from audit.locations import unopenable

log = logging.getLogger(__name__)
WAIT_VARIABLE = "ERASURE_AUDIT_INDEX_WAIT"
WAIT_SECONDS = 60.0
_NOTICE_SECONDS = 3.0
_PAUSE_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing or replacing the index at `path` in a block: DuckDB's lock ends with each file.

    While another process is inside, waits up to ERASURE_AUDIT_INDEX_WAIT seconds (60 without it) and says so after three.
    Raises `StoreError` when the time is over, and on a file system that has no locks.
    """
    if character := unopenable(path):
        raise StoreError(
            f"DuckDB cannot open a path with the character {character!r}",
            where=str(path),
            next_step="name another place for the index with --database",
        )
    wait = waiting_seconds()
    try:
        handle = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise unusable(error, path) from None
    try:
        _take(handle, path, wait)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, wait: float) -> None:
    began, told = time.monotonic(), False
    try:
        while not try_lock(handle):
            waited = time.monotonic() - began
            if waited >= wait:
                raise in_use(path, _holder(handle), wait)
            if waited >= _NOTICE_SECONDS and not told:
                told = True
                log.warning("the index is busy in %s; waiting for it, up to %g s: %s", _holder(handle), wait, path)
            time.sleep(_PAUSE_SECONDS)
    except NoLocks as error:
        raise no_locks(path, error.strerror) from None


def _holder(handle: int) -> str:
    pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
    return f"process {pid}" if pid else "another process"


def waiting_seconds() -> float:
    """Return how long a command waits for the index. Raises `EnvironmentProblem` for a setting that is no such time."""
    given = os.environ.get(WAIT_VARIABLE, "").strip()
    try:
        seconds = float(given) if given else WAIT_SECONDS
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= 86_400.0:
        raise EnvironmentProblem(
            f"{WAIT_VARIABLE} is {given[:40]!r}, not a number of seconds",
            where="environment",
            next_step=f"set it to 0..86400, or leave it out for {WAIT_SECONDS:g}",
        )
    return seconds


def in_use(path: Path, who: str, waited: float = 0.0) -> StoreError:
    """Return the error for an index that `who` has open."""
    still = f" still, after {waited:g} s of waiting" if waited else ""
    return StoreError(
        f"the index is open in {who}{still}",
        where=str(path),
        next_step="wait until it ends or stop it; to read, use the published copy beside the index"
        + (f"; {WAIT_VARIABLE} sets how many seconds to wait" if waited else ""),
    )


def no_locks(path: Path, reason: str | None) -> StoreError:
    """Return the error for an index on a file system without locks: two writers would damage it."""
    return StoreError(
        f"the index needs file locks, and the file system of its folder has none ({reason})",
        where=str(path),
        next_step="keep the index on a local disk: --database /local/folder/audit.duckdb; the journal may stay where it is",
    )


def unusable(error: OSError, path: Path) -> StoreError:
    """Return the error for a folder that cannot be opened or written."""
    return StoreError(
        f"the folder cannot be used: {error.strerror or error}", where=str(path), next_step="choose a writable folder"
    )
