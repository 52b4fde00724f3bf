"""Backbones for guards: random weights where arithmetic is checked, the trained testbed where pictures matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.weights.references import resolve_model


@pytest.fixture(scope="session")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.fixture(scope="session")
def testbed() -> Pipeline:
    return load_pipeline(resolve_model("testbed"), torch.device("cpu"))
