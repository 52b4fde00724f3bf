"""Where a run keeps what is not in the journal: the DuckDB index, the reports, and what can be made again."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from audit import homes, urls
from audit.errors import EnvironmentProblem, JournalError
from audit.file_locks import NoLocks, check_lockable
from audit.identity import key

ROOT_VARIABLE = "ERASURE_AUDIT_ROOT"
DEFAULT_ROOT = "./runs"


def storage_root(given: str | None = None) -> str:
    """The storage root: `given`, else ERASURE_AUDIT_ROOT, else `./runs`.

    Raises `JournalError` when it carries credentials: it is printed, and a flow's parameters are stored by Prefect.
    """
    root = given or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT
    refuse_credentials(root)
    return root


def refuse_credentials(root: str) -> None:
    """Raise `JournalError` when a storage root carries credentials: roots are printed, logged and stored."""
    if urls.has_credentials(root):
        raise JournalError(
            "the storage root carries credentials",
            where=urls.redact(root),
            next_step="remove them from the address and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )


def cache_folder() -> Path:
    """This machine's folder for what can be made again: `erasure-audit` below `$XDG_CACHE_HOME` or `~/.cache`.

    It lies below a private temporary folder where neither can be written.
    """
    return homes.cache_folder() / "erasure-audit"


def trainings_folder() -> Path:
    """Where trainings inside runs keep their checkpoints, one folder each, until their unit is journalled."""
    return cache_folder() / "trainings"


def local_folder(root: str) -> Path | None:
    """The folder behind a local root; None for an object store."""
    if urls.scheme(root) != "file":
        return None
    return Path(urls.absolute(root).removeprefix("file://"))


def database_path(root: str, given: str | None = None) -> Path:
    """The DuckDB index of a root: `given`, else `<root>/db/audit.duckdb`, else a file in the user's cache folder.

    The index can be deleted and rebuilt at any time, which is what a cache folder is for. It also takes the index of a
    local root whose name DuckDB cannot open (`unopenable`).
    """
    if given:
        return Path(os.path.expanduser(given))
    folder = local_folder(root)
    if folder is None or unopenable(folder):
        folder = cache_folder() / key(urls.absolute(root.rstrip("/")))[:16]
    return folder / "db" / "audit.duckdb"


def unopenable(path: Path) -> str | None:
    """Return the character for which DuckDB cannot open `path`: it splits names at `?` and takes a backslash for a slash."""
    return next((character for character in "?\\" if character in str(path)), None)


def report_folder(root: str, run_id: str, given: str | None = None) -> Path:
    """Where a run's reports go: `given`, else `<root>/reports/<run_id>`, else `./reports/<run_id>`."""
    if given:
        return Path(os.path.expanduser(given))
    return (local_folder(root) or Path.cwd()) / "reports" / run_id


def require_writable(database: Path, reports: Path) -> None:
    """Return when the index and the reports of a run can be written; the folders that hold them exist then.

    Raises `EnvironmentProblem` otherwise, so that a mistyped path does not wait for hours of compute to be noticed.
    """
    index, report = ("the DuckDB index", "--database"), ("the reports", "--reports")
    if character := unopenable(database):
        raise _unwritable(*index, f"DuckDB cannot open a path with the character {character!r}", database)
    if database.is_dir():
        raise _unwritable(*index, "it is a folder", database)
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        raise _unwritable(*index, "this user may not write the file", database)
    for folder, (what, option) in (
        (database.parent, index),
        (database.parent / "published", index),
        (reports if os.path.lexists(reports) else reports.parent, report),
    ):
        probe = folder / f".probe-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
            if folder == database.parent:
                check_lockable(probe)
        except NoLocks as error:
            why = f"it needs file locks, and the file system has none ({error.strerror})"
            raise _unwritable(what, option, why, folder) from None
        except OSError as error:
            raise _unwritable(what, option, error.strerror or str(error), folder) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()


def _unwritable(what: str, option: str, why: str, where: Path) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{what} cannot be written: {why}", where=str(where), next_step=f"name another place with {option}"
    )
