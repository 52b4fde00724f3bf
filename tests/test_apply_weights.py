"""Erased weights go onto a backbone strictly: what does not fit, or changes nothing, is refused."""

from __future__ import annotations

import pytest
import torch

from audit.backbones import Pipeline
from audit.checkpoints import apply_weights
from audit.errors import CheckpointError
from tests.erasers.conftest import pipeline  # noqa: F401


def test_weights_equal_to_the_backbones_are_refused(pipeline: Pipeline) -> None:  # noqa: F811
    name = next(n for n in pipeline.unet.state_dict() if n.endswith("attn2.to_k.weight"))
    with pytest.raises(CheckpointError, match="nothing was erased"):
        apply_weights(pipeline.unet, {name: pipeline.unet.state_dict()[name].clone()}, "test")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "empty"),
        ({"wrong.name": torch.zeros(1)}, "does not have"),
        ({"conv_in.bias": torch.zeros(3)}, "shape"),
        ({"conv_in.bias": torch.full((8,), torch.nan)}, "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    pipeline: Pipeline,  # noqa: F811
    weights: dict[str, torch.Tensor],
    message: str,
) -> None:
    with pytest.raises(CheckpointError, match=message):
        apply_weights(pipeline.unet, weights, "test")
