"""The part of the planning benchmark that lists a bucket too large for any server of the tests, at a small size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit.corpus import images
from tests.bench.bench_plan import large_listing
from tests.bench.large_bucket import SIDE, picture
from tests.servers import environment


def test_pictures_of_the_large_bucket_differ_and_decode() -> None:
    first, second = (images.decode_stored(picture(number)) for number in (1, 2))
    assert first.shape == (SIDE, SIDE, 3) and (first != second).any()


def test_a_large_bucket_is_listed_stopped_listed_on_and_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment("", "", ""):  # which the benchmark sets, and which are the caller's again at the end
        monkeypatch.setenv(name, os.environ.get(name, ""))
    rows = {figure.name.removeprefix("- "): figure for figure in large_listing(9_000, tmp_path)}
    again = rows["read again when listed on"]
    assert 0 < again.value < 4_500 and not again.missed  # 4,500 were listed, of which 4,000 lie in finished parts
    assert rows["unchanged since the run before"].detail == "0 pictures read"
