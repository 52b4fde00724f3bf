"""A run with two judges and its exported folder, made once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from tests.labels import runs


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A storage root with the run `run-1`, and a folder exported of it."""

    root: Path
    folder: Path
    truth: runs.Truth


JUDGES = {"judge": runs.exact, "other": runs.erring(0.5, 0.9, 1)}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """The run and folder that `labelled` copies."""
    place = tmp_path_factory.mktemp("labelled")
    run = runs.written(place / "runs", runs.Pictured(JUDGES))
    assert main(["labels", "export", "run-1", "--to", str(place / "out"), "--root", str(place / "runs")]) == 0
    return Labelled(place / "runs", place / "out", run.truth)


@pytest.fixture
def labelled(made: Labelled, tmp_path: Path) -> Labelled:
    """A copy of run and folder, for this test to change."""
    shutil.copytree(made.root, tmp_path / "runs")
    shutil.copytree(made.folder, tmp_path / "out")
    return Labelled(tmp_path / "runs", tmp_path / "out", made.truth)
