"""The batch that fits into memory: found from two small ones, and measured before it is believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.compute.batch_size import SHARE, batch_that_fits, evaluate
from audit.diffusion.pipeline import load_pipeline
from audit.weights.references import resolve_model


def card(free: int, once: int, each: int, tried: list[int], step: int = 10**9) -> object:
    """A card on which a batch takes `once + each * batch` bytes, and `once` more from `step` pictures on."""

    def peak(batch: int) -> int:
        tried.append(batch)
        taken = once + each * batch + (once if batch >= step else 0)
        if taken > free:
            raise torch.OutOfMemoryError
        return taken

    return peak


@pytest.mark.parametrize(
    ("free", "each", "most", "batch"),
    [
        (1000, 10, 64, 64), (1000, 10, 100, 64), (400, 10, 64, 16), (125, 10, 64, 2), (115, 10, 64, 1), (50, 10, 64, 1),
        (1000, 0, 64, 64),
    ],
)  # fmt: skip
def test_the_largest_power_of_two_that_fits(free: int, each: int, most: int, batch: int) -> None:
    tried: list[int] = []
    found = batch_that_fits(card(free, 80, each, tried), free, most)  # type: ignore[arg-type]
    assert found == batch
    if found > 2:
        assert tried[-1] == found and 80 + each * found <= SHARE * free


def test_a_batch_that_takes_more_than_foretold_is_halved() -> None:
    tried: list[int] = []
    assert batch_that_fits(card(1000, 400, 5, tried, step=32), 1000, 64) == 16  # type: ignore[arg-type]
    assert tried == [1, 2, 64, 32, 16]


def test_what_is_measured_is_the_loop_s_own_work(tiny_folder: Path) -> None:
    pipeline = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    rows: list[int] = []
    for module in (pipeline.unet, pipeline.vae.decoder):
        module.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    evaluate(pipeline, 3)
    assert rows == [6, 3]
