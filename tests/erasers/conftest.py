"""A tiny backbone with random weights, and parameters that train it in a few iterations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.erasers import resolve_parameters
from audit.spec.sections import Concept, Eraser
from audit.weights.references import resolve_model
from tests.tiny_families import WRITERS

CONCEPT = Concept(name="abc", phrase="abc", neighbours=("xyz",))
SMALL: dict[str, Any] = {"steps": 4, "pixels": 16, "batch_size": 2}
QUICK: dict[str, dict[str, Any]] = {
    "esd": {"iterations": 4, "steps": 4, "pixels": 16, "learning_rate": 1e-3, "compute": "float32"},
    "receler": {
        "iterations": 3,
        "steps": 4,
        "pixels": 16,
        "rank": 4,
        "mask_side": 8,
        "adversarial_iterations": 2,
        "adversarial_tokens": 3,
    },
    "concept-ablation": {**SMALL, "anchor": "xyz", "pictures": 3, "iterations": 3, "learning_rate": 1e-3},
    "spm": {**SMALL, "iterations": 3, "warm_up": 1, "learning_rate": 1e-2, "anchors": 2, "compute": "float32"},
    "mace": {
        **SMALL,
        "mapping": "xyz",
        "mask_side": 8,
        "pictures": 2,
        "iterations": 3,
        "learning_rate": 1e-2,
        "templates": ["{phrase}", "q {phrase} r"],
        "regularisation": 0.1,
    },
    "advunlearn": {**SMALL, "iterations": 4, "warm_up": 1, "adversarial_iterations": 2, "retain_batch": 2},
    "uce": {},
    "rece": {},
    "speed": {"threshold": 10.0, "invariant_regularisation": 0.5},
}


@pytest.fixture(scope="session")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.fixture(scope="session")
def backbone_of(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """Load a cut-down backbone of a family once."""

    @functools.cache
    def load(family: str) -> Pipeline:
        if family == "sd1":
            return pipeline
        folder = WRITERS[family](tmp_path_factory.mktemp(family) / "pipeline")
        return load_pipeline(resolve_model(str(folder)), torch.device("cpu"))

    return load


def quick(method: str, preset: str | None = None, **changes: Any) -> dict[str, Any]:
    """Resolved parameters of a method, cut down to seconds."""
    family = "esd" if method.startswith("esd") else method
    eraser = Eraser(method=method, preset=preset, parameters={**QUICK[family], **changes})
    return resolve_parameters(eraser, "tiny")


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    """A copy of the backbone's UNet weights."""
    return {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors agree bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
