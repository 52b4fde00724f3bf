"""Update the index and publish a read-only copy of it, whatever state the index is in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from audit.index.store import Replaceable, Store, set_aside
from audit.storage.journal import Journal

log = logging.getLogger(__name__)


def publish(journal: Journal, database: Path, update: Callable[[Store], object]) -> Path:
    """Update the index at `database` and return the path of a fresh read-only copy.

    An index that is corrupt, or that another version filled, is first made anew from the journal: it holds nothing
    that the journal does not, and a run's work must not wait for somebody who rebuilds it.
    """
    try:
        return _updated(database, update)
    except Replaceable as problem:
        log.warning(
            "%s: %s; it is made anew from the journal, the old file is kept as %s",
            database, problem.what, set_aside(database),
        )  # fmt: skip
        for damaged in Store.rebuild(database, journal, keep_old=True).damaged:
            log.warning("left out of the index: %s", damaged)
        return _updated(database, update)


def _updated(database: Path, update: Callable[[Store], object]) -> Path:
    with Store(database) as store:
        update(store)
        return store.publish(database.parent / "published")
