"""Find the places of a run outside the journal: index, reports and cache; keep credentials out of addresses."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Container
from pathlib import Path

from audit.errors import EnvironmentProblem, JournalError
from audit.files import NoLocks, check_lockable
from audit.identity import key
from audit.machine import homes

ROOT_VARIABLE = "ERASURE_AUDIT_ROOT"
DEFAULT_ROOT = "./runs"


def storage_root(given: str | None = None) -> str:
    """Return the storage root: `given`, else ERASURE_AUDIT_ROOT, else `./runs`.

    Raises `JournalError` when it carries credentials: it is printed, and a flow's parameters are stored by Prefect.
    """
    root = given or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT
    refuse_credentials(root)
    return root


def refuse_credentials(root: str) -> None:
    """Raise `JournalError` when a storage root carries credentials: roots are printed, logged and stored."""
    if has_credentials(root):
        raise JournalError(
            "the storage root carries credentials",
            where=redact(root),
            next_step="remove them from the address and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )


def cache_folder() -> Path:
    """Return this machine's folder for files that can be made again: `erasure-audit` below `$XDG_CACHE_HOME` or `~/.cache`.

    It is below a private temporary folder where neither can be written.
    """
    return homes.cache_folder() / "erasure-audit"


def trainings_folder() -> Path:
    """Return the folder of checkpoints of trainings inside runs, one folder each, until their unit is journalled."""
    return cache_folder() / "trainings"


def local_folder(root: str) -> Path | None:
    """Return the folder of a local root; None for an object store."""
    if scheme(root) != "file":
        return None
    return Path(absolute(root).removeprefix("file://"))


def database_path(root: str, given: str | None = None) -> Path:
    """Return the DuckDB index of a root: `given`, else `<root>/db/audit.duckdb`, else a file in the user's cache folder.

    The index can be deleted and rebuilt at any time, which is what a cache folder is for. It also takes the index of a
    local root whose name DuckDB cannot open (`unopenable`).
    """
    if given:
        return Path(os.path.expanduser(given))
    folder = local_folder(root)
    if folder is None or unopenable(folder):
        folder = cache_folder() / key(absolute(root.rstrip("/")))[:16]
    return folder / "db" / "audit.duckdb"


def unopenable(path: Path) -> str | None:
    """Return the character in `path` that DuckDB cannot open; it splits names at `?` and reads a backslash as a slash."""
    return next((character for character in "?\\" if character in str(path)), None)


def report_folder(root: str, run_id: str, given: str | None = None) -> Path:
    """Return the folder of a run's reports: `given`, else `<root>/reports/<run_id>`, else `./reports/<run_id>`."""
    if given:
        return Path(os.path.expanduser(given))
    return (local_folder(root) or Path.cwd()) / "reports" / run_id


def require_writable(database: Path, reports: Path) -> None:
    """Check that the index and the reports of a run can be written, and create their folders.

    Raises `EnvironmentProblem` otherwise, so that a mistyped path is noticed before hours of compute.
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


_USERINFO = re.compile(r"(?<=://)[^/\s@\"']+@")
_S3_USERINFO = re.compile(r"(s3a?://)(?!arn:)[^/:\s@\"']+:[^\s@\"']*@")  # secret keys may hold slashes
_SIGNED = re.compile(
    r"([?&](?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|token|access_key|secret_key)=)"
    r"[^&\s\"']+",
    re.IGNORECASE,
)
SCHEMES = ("file", "s3")  # of corpora and storage roots
_LONGEST = 300  # characters of what another library or server says
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def scheme(url: str) -> str:
    """Return the protocol of `url` in lower case; `file` for a plain path."""
    head, separator, _ = url.partition("://")
    if separator:
        return {"s3a": "s3", "local": "file"}.get(head.lower(), head.lower())
    return "file"


def scheme_problem(url: str, also: Container[str] = ()) -> str | None:
    """Return why `url` is on no supported storage; None for a path, `file://`, `s3://` and the schemes in `also`.

    fsspec would open many more: archives inside files, web pages, references, other people's servers.
    """
    kind = scheme(url)
    if kind in SCHEMES or kind in also:
        return None if kind == "file" or "::" not in url else "addresses that are chained with '::' are not read"
    return f"the protocol {kind!r} is not supported; folders (a path or file:///folder) and s3://bucket/prefix are"


def has_credentials(url: str) -> bool:
    """Return whether `url` carries a user, a password or a signature. A path on disk never does."""
    authority = url.partition("://")[2].partition("/")[0]
    keys = scheme(url) == "s3" and ":" in authority and not authority.startswith("arn:")
    return scheme(url) != "file" and (keys or redact(url) != url)


def redact(text: str) -> str:
    """Return `text` with `***` for user information and signatures in URLs and for the values of AWS key variables."""
    text = _USERINFO.sub("***@", _S3_USERINFO.sub(r"\1***@", text))
    text = _SIGNED.sub(r"\1***", text)
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 8:  # shorter values are no keys, and would blank ordinary words
            text = text.replace(value, "***")
    return text


def readable(text: str) -> str:
    """Return the text of a foreign error as one short line: without credentials and unprintable characters, cut when long."""
    printable = "".join(c if c.isprintable() else "?" for c in " ".join(redact(text).split()))
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 3] + "..."


def absolute(url: str) -> str:
    """Return `url` as it is recorded: `file:///absolute/path` (relative paths start at the current directory), `s3://b/key`.

    The rest is taken literally: names are not percent-decoded, because object keys and files may hold any character.
    """
    kind = scheme(url)
    if kind != "file":
        return f"{kind}://{url.partition('://')[2]}"
    rest = url.partition("://")[2] if "://" in url else url.removeprefix("file:")
    path = Path(os.path.expanduser(rest)).absolute()  # Path.expanduser raises for an unknown user
    return "file:///" + os.path.normpath(path).lstrip("/")
