"""A small history, published once for all tests of the dashboard, and pages of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.index.copies import open_copy
from tests.history import History, write

SMALL = History(
    runs=9,
    cases=30,
    concepts=("ring", "nudity"),
    defences=("uce", "esd-x+safree"),
    scenarios=(("text", "text"), ("inverted", "latent-whitebox"), ("learned token", "embedding-whitebox")),
)
NOW = dt.datetime(2026, 11, 29, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published index with nine runs of three systems."""
    return write(tmp_path_factory.mktemp("history"), SMALL)


@pytest.fixture
def con(published: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_copy(published)
    yield found
    found.close()


@pytest.fixture
def context(con: duckdb.DuckDBPyConnection) -> Context:
    return Context(con, NOW, LiveLinks(), index="index-000001.duckdb")
