"""Foreign bytes never end in "unexpected": every boundary gives a value or one of our errors, in bounded time and memory."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from audit.errors import AuditError
from tests.fuzzing import checkpoints, files, harness, labels, models, plugins, runs, services
from tests.fuzzing.harness import Boundary, Opened, report, run
from tests.servers import environment

ALL = tuple(
    itertools.chain(
        files.BOUNDARIES,
        models.BOUNDARIES,
        checkpoints.BOUNDARIES,
        runs.BOUNDARIES,
        labels.BOUNDARIES,
        plugins.BOUNDARIES,
        services.BOUNDARIES,
    )
)


def named(boundaries: Iterable[Boundary]) -> list[Any]:
    """Parameters with readable names."""
    return [pytest.param(boundary, id=re.sub(r"[^\w.]+", "-", boundary.name)) for boundary in boundaries]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("http://127.0.0.1:9", "", "").items():
        monkeypatch.setenv(name, value)  # so that what a boundary sets here goes back with the test
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check(boundary: Boundary, folder: Path, pipeline: Path, count: int) -> None:
    """Fail with a report of all findings. The boundary gets a folder with a pipeline in it that it may break."""
    folder.mkdir()
    shutil.copytree(pipeline, folder / "pipeline")
    count = int(os.environ.get("FUZZ_COUNT", count))
    findings = run(boundary.open(folder), boundary.allowed, count)
    if findings and "FUZZ_REPORT" in os.environ:  # the whole report of a long run, for a person
        with Path(os.environ["FUZZ_REPORT"]).open("a", encoding="utf-8") as stream:
            stream.write(report(boundary.name, findings, count) + "\n\n")
    if findings:
        pytest.fail(report(boundary.name, findings, count), pytrace=False)


def test_the_harness_finds_what_no_user_may_see_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "HANG_SECONDS", 0.8)
    monkeypatch.setattr(harness, "GROWTH_BYTES", 64 << 20)
    kept = []

    def attempt(data: bytes) -> None:
        match data:
            case b"mistake":
                raise AuditError("said clearly", next_step="do another thing")
            case b"no way on":
                raise AuditError("said clearly")
            case b"endless":
                raise AuditError("said clearly" * 1000, next_step="do another thing")
            case b"crash":
                raise KeyError("a field")
            case b"warning":
                warnings.warn("old", stacklevel=1)
            case b"hang":
                time.sleep(5)
            case b"bomb":
                kept.append(b"x" * (1 << 40))
            case b"large":
                kept.append(b"x" * (80 << 20))

    words = (b"value", b"mistake", b"crash", b"warning", b"hang", b"bomb", b"large", b"no way on", b"endless")
    found = run(Opened([], attempt, words), (AuditError,), len(words))
    assert {finding.kind for finding in found} == {
        "KeyError",
        "UserWarning",
        "over 0.8 s",
        "MemoryError",
        "over 1 GB more memory",
        "an error without a next step",
        "an endless message",
    }


@pytest.mark.parametrize("boundary", named(boundary for boundary in ALL if boundary.smoke_count))
def test_damaged_bytes_end_in_a_value_or_in_one_clear_error(
    boundary: Boundary, tmp_path: Path, tiny_folder: Path
) -> None:
    check(boundary, tmp_path / "files", tiny_folder, boundary.smoke_count)


@pytest.mark.slow
@pytest.mark.timeout(1800, method="thread")  # the harness has the alarm signal for itself
@pytest.mark.parametrize("boundary", named(ALL))
def test_many_damaged_bytes_end_in_a_value_or_in_one_clear_error(
    boundary: Boundary, tmp_path: Path, tiny_folder: Path
) -> None:
    count = int(os.environ.get("FUZZ_COUNT", boundary.slow_count))  # fewer for a first look, more for a long night
    check(boundary, tmp_path / "files", tiny_folder, count)
