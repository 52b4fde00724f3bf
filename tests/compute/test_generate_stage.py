"""Making the pictures of one unit: what the decoder could not finish is no evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.compute.models import Models
from audit.compute.stages.generate import run_generate
from audit.plan.identities import GenerateIdentity
from audit.storage.journal import Journal
from audit.weights.references import resolve_model
from tests.synthetic import case, unit


def made(models: Models, source: str) -> list[tuple[str, str | None]]:
    """(status, error) of two pictures from one source."""
    described = unit("generate", source=source).identity
    assert isinstance(described, GenerateIdentity)
    cases = [case(n, item=f"item {n}") for n in range(2)]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    table, _ = run_generate(described, cases, models, models.journal, lambda item: pixels, 2)
    return [(row["status"], row["error"]) for row in table.to_pylist()]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_picture_that_is_not_finite_is_degenerate(tiny_folder: Path, tmp_path: Path, value: float) -> None:
    """One channel of them reads as black or white, and the others would make the rest look like a picture."""
    models = Models(resolve_model(str(tiny_folder)), Journal(str(tmp_path)), torch.device("cpu"))
    for source in ("prompt", "vae"):
        assert made(models, source) == [("ok", None)] * 2
    with torch.no_grad():
        models.pipeline.vae.decoder.conv_out.bias[0] = value
    for source in ("prompt", "vae"):
        assert made(models, source) == [("degenerate", "the decoded picture is not finite")] * 2
    assert made(models, "image") == [("ok", None)] * 2
