"""The context of every page: an index, the time, the addresses of other pages, and the source of pictures."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence

import duckdb

from audit.dashboard.links import Links, Query
from audit.index.records import Row, records
from audit.report.embedding import Pictures

STALE_DAYS = 14


class PageMissing(Exception):
    """The query names what this index does not have. The message is a sentence for the reader."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a page function gets beside its query."""

    con: duckdb.DuckDBPyConnection
    now: dt.datetime
    links: Links
    pictures: Pictures | None = None  # None: no journal was named, so there are only stand-ins
    stale_days: int = STALE_DAYS
    index: str = ""  # name of the published copy
    notice: str = ""  # what a reader must know of this copy

    def rows(self, sql: str, parameters: Mapping[str, object] | Sequence[object] | None = None) -> list[Row]:
        """Return the rows of a query as mappings by column."""
        return records(self.con, sql, parameters)

    def link(self, page: str, query: Query | None = None, /, **names: str | None) -> str:
        """Return the address of a page."""
        return self.links.to(page, {**(query or {}), **{name: value or "" for name, value in names.items()}})


@dataclasses.dataclass(frozen=True)
class Page:
    """One page: its title, its template, and the values that it shows."""

    title: str
    template: str
    values: Mapping[str, object]
    heading: str = ""  # the title where empty


PageFunction = Callable[[Context, Query], Page]


def days_between(created_at: str, now: dt.datetime) -> int | None:
    """Return the whole days since an ISO 8601 moment; None where it is none."""
    try:
        moment = dt.datetime.fromisoformat(created_at)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0, (now - moment).days)
