"""What the CPU does beside the device: the same results, one bad case alone, and a device that is gone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from audit.compute.models import Models
from audit.compute.stages import generate
from audit.compute.stages.batching import Row, run_batches
from audit.compute.stages.generate import run_generate
from audit.compute.stages.overlap import Ahead, Finisher
from audit.diffusion import devices
from audit.errors import DeviceLost
from audit.storage.journal import Journal
from audit.weights.references import resolve_model
from tests.synthetic import case, unit


def test_rows_that_threads_finish_are_those_that_this_one_does(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models(resolve_model(str(tiny_folder)), Journal(str(tmp_path)), torch.device("cpu"))
    described = unit("generate", source="prompt").identity
    cases = [case(n) for n in range(3)]
    pixels = np.zeros((32, 32, 3), np.uint8)
    alone, _ = run_generate(described, cases, models, models.journal, lambda item: pixels, 2)  # type: ignore[arg-type]
    monkeypatch.setattr(generate, "threads_beside", lambda device: 2)
    beside, _ = run_generate(described, cases, models, models.journal, lambda item: pixels, 2)  # type: ignore[arg-type]
    assert beside.equals(alone)


def test_a_row_that_cannot_be_finished_is_an_error_of_its_case_alone() -> None:
    finisher = Finisher(2)

    def finish(value: int) -> Row:
        if value == 1:
            raise OSError("no room for this picture")
        return {"value": value}

    def work(batch: Sequence[int]) -> list[Row | Future[Row]]:
        return [finisher.submit(lambda value=value: finish(value)) for value in batch]  # type: ignore[misc]

    rows = run_batches([0, 1, 2], 2, work, lambda value, error: {"value": value, "error": error})
    assert rows == [{"value": 0}, {"value": 1, "error": "OSError: no room for this picture"}, {"value": 2}]


@pytest.mark.parametrize("threads", [0, 2])
def test_items_are_loaded_before_they_are_asked_for(threads: int) -> None:
    items, loaded, second = [[n] for n in range(7)], list[int](), threading.Event()

    def load(item: list[int]) -> int:
        loaded.append(item[0])
        if item[0] == 3:
            second.set()
        return item[0] * 10

    ahead = Ahead(items, load, 2, threads)
    assert ahead.take(items[:2]) == [0, 10]
    if threads:
        assert second.wait(5)  # two of the next batch, while this one is measured
    else:
        assert loaded == [0, 1]
    assert ahead.take(items[2:4]) == [20, 30]
    assert ahead.take(items[2:3]) == [20]  # again, as after an error
    assert ahead.take(items[4:]) == [40, 50, 60]
    assert set(loaded) == set(range(7))


def test_a_device_that_is_gone_ends_the_unit_instead_of_making_errors_of_its_cases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def work(batch: Sequence[int]) -> list[Row]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nstack")

    def fail(value: int, error: str) -> Row:
        return {"value": value, "error": error}

    assert [row["value"] for row in run_batches([1, 2], 2, work, fail)] == [
        1,
        2,
    ]  # a device that answers: two bad cases
    monkeypatch.setattr(devices, "_answers", gone)
    with pytest.raises(
        DeviceLost, match="stopped answering: RuntimeError: CUDA error: an illegal memory access"
    ) as lost:
        run_batches([1, 2], 2, work, fail)
    assert "\nstack" not in lost.value.what and "resume" in str(lost.value)


def test_float32_is_float32_everywhere() -> None:
    devices.pick_device("cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
