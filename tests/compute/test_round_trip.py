"""The quality gate on images that the testbed was not trained on: inversion and back, through the stage itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from audit import identity
from audit.compute.models import Models
from audit.compute.stages.invert import run_invert
from audit.plan.inversions import Inversion
from audit.spec.scenarios import LatentScenario
from audit.storage.journal import Journal
from audit.testbed.scenes import sample_scene
from audit.weights.references import resolve_model

SCENARIO = LatentScenario(name="latent-blackbox")


def inverted(folder: Path, images: int) -> list[dict[str, Any]]:
    """Rows of one invert unit of the backbone with the defaults of a scenario: 50 steps, the null prompt."""
    items = {identity.key(i): sample_scene("audit", i).image for i in range(images)}
    described = Inversion(SCENARIO, None).identity("a" * 64)
    models = Models(resolve_model("testbed"), Journal(str(folder)), torch.device("cpu"))
    described = dataclasses.replace(described, items=tuple(items))
    table, _ = run_invert(described, models, lambda item: items[item], 16)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def passing(rows: list[dict[str, Any]]) -> float:
    gate = SCENARIO.quality_gate
    good = [r for r in rows if r["residual_max"] < gate.residual_max and r["psnr_roundtrip_db"] > gate.psnr_min_db]
    return len(good) / len(rows)


def test_held_out_images_come_back(tmp_path: Path) -> None:
    rows = inverted(tmp_path, 4)
    assert passing(rows) == 1.0
    assert all(row["passes_mean"] < 5 for row in rows)


@pytest.mark.slow
def test_95_of_100_held_out_images_come_back(tmp_path: Path) -> None:
    assert passing(inverted(tmp_path, 100)) >= 0.95
