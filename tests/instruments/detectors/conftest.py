"""Fixtures of the detector tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audit.instruments.detectors.base import Pixels
from tests.instruments.detectors.folders import write_classifier, write_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("detectors") / "clip")


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("detectors") / "classifier")


@pytest.fixture
def images() -> list[Pixels]:
    """Five pictures of three sizes; one is as tall as an image has channels, which misleads axis guessing."""
    rng = np.random.default_rng(0)
    sizes = [(48, 40), (3, 40), (32, 32), (48, 40), (64, 64)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
