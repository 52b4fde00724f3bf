"""The proxy in front of S3 does the harm that it is told to, and what the storage layer makes of it."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from audit.errors import JournalError
from audit.storage.errors import StorageUnavailable
from tests.chaos.conftest import Storage

pytestmark = pytest.mark.server


def test_it_passes_everything_on_while_it_has_no_rule(quiet: Storage) -> None:
    store, data = quiet.store, os.urandom(100_000)
    store.probe()
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.size("a/b") == len(data)
    assert not store.put_new("a/b", b"other")
    assert store.entries("a") == [("b", len(data))]
    store.delete("a/b")
    assert not store.exists("a/b")


@pytest.mark.parametrize("name", ["s3-500", "s3-503", "s3-reset", "s3-slow"])
def test_one_harmed_request_is_repeated(name: str, quiet: Storage) -> None:
    quiet.harm(name, 1)
    quiet.store.put(f"{name}/object", b"data")
    assert quiet.store.get(f"{name}/object") == b"data"
    assert quiet.proxy.hits == 1


@pytest.mark.parametrize("name", ["s3-clock-skew", "s3-expired-token"])
def test_a_refusal_is_one_until_it_is_over(name: str, quiet: Storage) -> None:
    quiet.harm(name, 1_000)
    with pytest.raises(JournalError, match="rejects these credentials"):
        quiet.store.put(f"{name}/object", b"data")
    assert quiet.proxy.hits
    quiet.proxy.rule = None
    assert quiet.store.put_new(f"{name}/object", b"data")


def test_a_body_that_breaks_off_is_never_taken_for_the_object(quiet: Storage) -> None:
    quiet.store.put("truncated", b"data" * 1000)
    quiet.harm("s3-truncated", 1)
    with contextlib.suppress(StorageUnavailable):
        assert quiet.store.get("truncated") == b"data" * 1000
    assert quiet.proxy.hits == 1


def test_a_stale_listing_lacks_what_came_since(quiet: Storage) -> None:
    quiet.harm("s3-stale-listing", 1)
    assert quiet.store.entries("stale") == []
    quiet.store.put("stale/new", b"data")
    assert quiet.store.entries("stale") == []
    assert quiet.store.entries("stale") == [("new", 4)]


def test_a_put_is_delivered_twice(quiet: Storage) -> None:
    before = quiet.proxy.paths["PUT twice"]
    quiet.harm("s3-duplicate-put", 1)
    quiet.store.put("duplicate/twice", b"data")
    deadline = time.monotonic() + 5
    while quiet.proxy.paths["PUT twice"] < before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert quiet.proxy.paths["PUT twice"] == before + 2
