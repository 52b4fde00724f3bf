"""Fixtures shared by all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny import write_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights."""
    return write_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Prefect for temporary servers, one after the other: the first of them makes its database, in seconds."""
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture
def tiny_copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """The same pipeline folder once more, for this test to change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny"))
