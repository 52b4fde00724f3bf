"""A backbone of SD v1.4's architecture with its widths cut down, and the same at full size without memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.checkpoints.tensors import BackboneTensors, bare_text_names, in_memory
from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.weights.references import ModelRef, resolve_model
from tests.checkpoints.files import State
from tests.sd14 import CUT, FULL, make_unet, write_sd14


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return resolve_model(str(write_sd14(tmp_path_factory.mktemp("sd14") / "pipeline", CUT)))


@pytest.fixture(scope="session")
def pipeline(backbone: ModelRef) -> Pipeline:
    return load_pipeline(backbone, torch.device("cpu"))


@pytest.fixture(scope="session")
def unet(pipeline: Pipeline) -> State:
    return dict(pipeline.unet.state_dict())


@pytest.fixture(scope="session")
def text(pipeline: Pipeline) -> State:
    return dict(pipeline.text_encoder.state_dict())


@pytest.fixture(scope="session")
def full_unet() -> State:
    """SD v1.4's UNet at its real names and sizes, on the meta device: reading a value would fail."""
    with torch.device("meta"):
        return dict(make_unet(FULL).state_dict())


@pytest.fixture(scope="session")
def full_backbone(full_unet: State, text: State) -> BackboneTensors:
    return BackboneTensors(in_memory(full_unet), bare_text_names(in_memory(text)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    made.mkdir()
    return made
