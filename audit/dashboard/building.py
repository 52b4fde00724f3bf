"""Write the pages into a folder that needs no server: every page that a page links to, and a list of digests."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

import duckdb

from audit.dashboard.context import STALE_DAYS, Context
from audit.dashboard.links import HOME, StaticLinks
from audit.dashboard.site import STYLE, answer, style_sheet
from audit.errors import StoreError
from audit.files import ForeignError, parse_json, read_bounded
from audit.progress.steps import Step
from audit.report.embedding import Pictures

MARKER, DIGESTS = "dashboard.json", "manifest-sha256.txt"
FORMAT = "erasure-audit dashboard"
_LARGEST = 16 << 20  # bytes of a marker


@dataclasses.dataclass(frozen=True)
class Built:
    """A static site."""

    folder: Path
    pages: int
    bytes: int


def build(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    now: dt.datetime,
    *,
    index: str,
    pictures: Pictures | None = None,
    stale_days: int = STALE_DAYS,
) -> Built:
    """Write the site into `folder`, in place of an earlier build, and return what was written.

    The same index and moment give the same bytes. Raises `StoreError` when the folder holds anything but an earlier build, or
    cannot be written.
    """
    require_replaceable(folder)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        unfinished.mkdir(parents=True)
        links = StaticLinks()
        context = Context(con, now, links, pictures, stale_days, index)
        digests = {STYLE: _write(unfinished / STYLE, style_sheet())}
        links.to(HOME, {})
        done = 0
        with Step("dashboard", None, "pages") as step:
            while done < len(links.wanted):
                (page, query), name = list(links.wanted.items())[done]
                digests[name] = _write(unfinished / name, answer(context, page, dict(query)).html.encode())
                done += 1
                step.advance(total=len(links.wanted))
        facts = {"format": FORMAT, "index": index, "written_at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "pages": done}
        marker = json.dumps({**facts, "files": sorted(digests)}, indent=1).encode()
        digests[MARKER] = _write(unfinished / MARKER, marker)
        _write(unfinished / DIGESTS, "".join(f"{d}  {n}\n" for n, d in sorted(digests.items())).encode())
        size = sum(path.stat().st_size for path in unfinished.iterdir())
        _replace(unfinished, folder)
    except OSError as error:
        raise StoreError(
            f"the site cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="name another folder, or free space there",
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Built(folder, done, size)


def require_replaceable(folder: Path) -> None:
    """Return when a site may be written to `folder`: it is absent, empty, or an earlier build with nothing else in it.

    Raises `StoreError` otherwise.
    """
    if not os.path.lexists(folder):
        return
    refused, other = "there is something else here, which a build would overwrite", "name a folder that does not exist"
    try:
        there = {path.name for path in folder.iterdir()}
        if not there:
            return
        marker = parse_json(read_bounded(folder / MARKER, _LARGEST))
        known = {*marker["files"], MARKER, DIGESTS} if marker["format"] == FORMAT else set()
    except (OSError, ForeignError, LookupError, TypeError):
        raise StoreError(refused, where=str(folder), next_step=other) from None
    if strange := sorted(there - known):
        raise StoreError(f"{refused}: {strange[0]}", where=str(folder), next_step=other)


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _replace(unfinished: Path, folder: Path) -> None:
    """Put the finished site in the place of the earlier one, which stays until then."""
    if not os.path.lexists(folder):
        os.replace(unfinished, folder)
        return
    old = unfinished.with_name(f"{unfinished.name}.old")
    os.replace(folder, old)
    os.replace(unfinished, folder)
    shutil.rmtree(old)
