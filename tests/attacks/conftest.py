"""The tiny pipeline that attacks are tested on, loaded anew for each file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.weights.references import resolve_model
from tests.attacks.loras import State


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.fixture(scope="module")
def unet(pipeline: Pipeline) -> State:
    return {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
