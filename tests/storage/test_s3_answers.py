"""What a broken object store answers ends in one short sentence, and soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import locations
from audit.corpus.sources import open_source
from audit.errors import CorpusError, JournalError
from audit.storage import errors
from audit.storage.journal import Journal
from tests.fuzzing.services import LISTING, Server, answer, error
from tests.servers import environment

KEY = "a" * 64


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    host, port = made.server_address[:2]
    for name, value in environment(f"http://{host!s}:{port}", "testing-key", "testing-secret").items():
        monkeypatch.setenv(name, value)
    yield made
    made.shutdown()
    made.server_close()


def test_a_redirect_without_a_region_is_followed_once(server: Server) -> None:
    server.object = server.listing = error("301 Moved Permanently", "PermanentRedirect")
    started = time.perf_counter()
    with pytest.raises(CorpusError, match=r"the endpoint is not an S3 server: .*said by a test"):
        open_source("s3://bucket/set").read("s3://bucket/set/1.png")
    with pytest.raises(JournalError, match=r"the endpoint is not an S3 server: .*said by a test"):
        Journal("s3://bucket/set").read("detect", KEY)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("<Contents><Size>1</Size></Contents>", "the answer is not an S3 listing"),
        ("<Contents><Key>set/1.png</Key></Contents>", "the answer is not an S3 listing"),
        ("<Contents><Key>set/1.png</Key><Size>-1</Size></Contents>", "the answer is not an S3 listing"),
        ("<IsTruncated>true</IsTruncated>", "the answer is an S3 listing without an end"),
    ],
)
def test_a_listing_that_lacks_what_it_needs_is_refused(entry: str, said: str, server: Server) -> None:
    server.listing = answer(f"<ListBucketResult><Name>bucket</Name>{entry}</ListBucketResult>".encode())
    with pytest.raises(CorpusError) as caught:
        list(open_source("s3://bucket/set").objects())
    assert said in caught.value.what and "\n" not in caught.value.what


def test_a_listing_that_names_itself_as_its_next_page_ends(server: Server) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    server.listing = answer(LISTING.format(size=1).replace("<IsTruncated>false</IsTruncated>", more).encode())
    with pytest.raises(CorpusError, match=r"out of order|without an end"):
        list(open_source("s3://bucket/set").objects())


def test_text_of_a_server_is_one_short_readable_line() -> None:
    shown = locations.readable("no\n\x00\x1b[31m" + "\udcff" * 5000)
    assert shown.startswith("no ??[31m???") and len(shown) == 300 and shown.isprintable()


@pytest.mark.parametrize("broken", [KeyError("ContentLength"), ValueError("no date"), RecursionError("deep")])
def test_whatever_breaks_on_an_answer_of_an_object_store_is_a_storage_error(broken: Exception, tmp_path: Path) -> None:
    with pytest.raises(JournalError) as caught, errors.translated("s3://bucket/set/x"):
        raise broken
    assert (
        caught.value.what.startswith("the storage failed, or the endpoint is not an S3 server: ")
        and caught.value.where == "s3://bucket/set/x"
    )
    with pytest.raises(type(broken)), errors.translated(str(tmp_path)):
        raise broken
