"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights."""
    return write_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")
