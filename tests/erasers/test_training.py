"""Training survives interruptions without a trace, and stops where going on would make rubbish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Training
from audit.erasers import ERASERS, esd, receler, resolve_parameters
from audit.erasers.costs import BACKWARD
from audit.errors import EnvironmentProblem, EraserError
from audit.files import partial, write_atomically
from audit.plan.erasure_costs import stored_bytes, training_calls
from audit.progress import Session, Silent
from audit.spec.sections import Eraser
from tests.erasers.conftest import CONCEPT, quick, same
from tests.sd14 import FULL, make_unet

PREPARING = ("latents", "pictures", "refinement", "fusion")  # stages before and after the iterations


class Stopping(Silent):
    """Interrupts after so many iterations, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.began: list[int] = []

    def begin(self, stage: str, total: int | None, done: int) -> None:
        if stage not in PREPARING:
            self.began.append(done)

    def update(self, stage: str, done: int) -> None:
        if stage not in PREPARING and done == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("esd-x", {}),
        ("receler", {"latents_from": "frozen", "jitter": False, "pool": 2}),
        ("concept-ablation", {"prior_weight": 1.0}),
        ("spm", {}),
        ("mace", {}),
        ("advunlearn", {"jitter": False, "pool": 2}),
    ],
)
def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(
    pipeline: Pipeline, tmp_path: Path, method: str, changes: dict[str, object]
) -> None:
    erase: Any = ERASERS.find(method, "defences").function()
    parameters = quick(method, **changes)
    whole = erase(pipeline, [CONCEPT], parameters, Session())
    with pytest.raises(KeyboardInterrupt):
        erase(pipeline, [CONCEPT], parameters, Session(tmp_path, Stopping(2), 0.0))
    listener = Stopping(-1)
    resumed = erase(pipeline, [CONCEPT], parameters, Session(tmp_path, listener, 0.0))
    assert listener.began == [1]  # the checkpoint of the first iteration; the second one was never finished
    assert same(whole.tensors, resumed.tensors)
    assert whole.curve == resumed.curve


def a_training(folder: Path | None, tensor: torch.Tensor, key: str = "k" * 64, **changes: float) -> Training:
    optimiser = torch.optim.Adam([tensor], lr=0.1)
    session = Session(folder, checkpoint_seconds=changes.get("every", 0.0))
    return Training("fit", key, {"w": tensor}, {"w": optimiser}, iterations=6, seed=3, session=session)


def iterate(training: Training, tensor: torch.Tensor, broken: int = -1):  # type: ignore[no-untyped-def]
    def one(generator: torch.Generator) -> torch.Tensor:
        loss = (tensor - torch.randn(3, generator=generator)).square().sum()
        training.optimisers["w"].zero_grad()
        loss.backward()
        training.optimisers["w"].step()
        return loss * float("nan") if training.done == broken else loss

    return one


def test_nan_stops_with_a_message_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    training = a_training(tmp_path, tensor)
    with pytest.raises(EraserError, match="loss is nan at iteration 4 of 6") as error:
        training.run(iterate(training, tensor, broken=3))
    assert "learning_rate" in str(error.value)
    again = a_training(tmp_path, torch.zeros(3, requires_grad=True))
    assert again.done == 3
    assert torch.isfinite(again.tensors["w"]).all()


def test_weights_that_break_are_never_kept(tmp_path: Path) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    training = a_training(tmp_path, tensor)

    def explode(generator: torch.Generator) -> torch.Tensor:
        with torch.no_grad():
            tensor.fill_(float("inf"))
        return torch.tensor(1.0)

    with pytest.raises(EraserError, match="NaN or infinity"):
        training.run(explode)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other key"])
def test_a_checkpoint_that_does_not_fit_is_not_continued(tmp_path: Path, damage: str) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    training = a_training(tmp_path, tensor)
    training.run(iterate(training, tensor))
    (path,) = tmp_path.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "garbage":
        path.write_bytes(b"no checkpoint")
    again = a_training(tmp_path, torch.zeros(3, requires_grad=True), "o" * 64 if damage == "other key" else "k" * 64)
    assert again.done == 0
    assert not again.tensors["w"].any()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(unfinished: Path) -> None:
        unfinished.write_text("old")
        unfinished.chmod(0o600)

    write_atomically(path, write)
    (tmp_path / "ordinary").write_text("")
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    (tmp_path / "ordinary").unlink()

    def fail(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="No space left"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


_SLOW_WRITE = """
import sys, time
from pathlib import Path
from audit.files import write_atomically

def write(unfinished):
    unfinished.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)

write_atomically(Path(sys.argv[1]), write)
"""


def test_a_kill_while_writing_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / f"fit-{'k' * 16}.pt"
    child = subprocess.Popen([sys.executable, "-c", _SLOW_WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline().strip() == "writing"
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
    finally:
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
    assert not path.exists() and partial(path).exists()
    assert a_training(tmp_path, torch.zeros(3, requires_grad=True)).done == 0
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_by_the_clock(tmp_path: Path) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    training = a_training(tmp_path, tensor, every=3600.0)
    started = time.monotonic()
    training.run(iterate(training, tensor))
    assert list(tmp_path.iterdir()) == []
    assert 0 < training.seconds <= time.monotonic() - started
    assert [point.iteration for point in training.curve] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("esd-x", {"sampler": "ddim", "trajectory": "compvis", "steps": 2}),  # one step, whatever is drawn
        ("receler", {"adversarial_tokens": 0, "trajectory": "compvis", "steps": 2}),
        ("esd-x", {"pool": 3, "sampler": "pndm", "templates": ["{phrase}", "a {phrase}"], "batch_size": 2}),
        ("esd-x", {"pool": 1, "erase_from": "klm"}),
        ("receler", {"latents_from": "frozen", "jitter": False, "pool": 2}),
    ],
)
def test_the_price_of_a_training_holds_for_the_real_training(
    pipeline: Pipeline, method: str, changes: dict[str, object]
) -> None:
    """Forward passes are counted; of the price, the backward passes are two for each of an iteration's gradients."""
    erase = esd.erase if method == "esd-x" else receler.erase
    parameters, rows = quick(method, **changes), []
    hook = pipeline.unet.register_forward_hook(lambda module, given, output: rows.append(len(given[0])))
    try:
        erase(pipeline, [CONCEPT], parameters, Session())
    finally:
        hook.remove()
    gradients = parameters["adversarial_iterations"] + 1 if parameters.get("adversarial_tokens") else 1
    backward = BACKWARD * gradients * parameters["iterations"] * parameters["batch_size"]
    (price,) = set(training_calls(method, parameters, CONCEPT))
    assert sum(rows) + backward == price


@pytest.mark.parametrize(
    ("method", "preset", "parameters"),
    [
        ("esd-x", None, 43_962_560),
        ("esd-u", None, 815_358_084),
        ("esd-all", None, 859_320_644),
        ("esd-x-strict", None, 19_169_280),
        ("esd-x", "official-2023", 43_962_560),
        ("esd-u", "official-2023", 813_495_680),
        ("esd-all", "official-2023", 859_520_964),
        ("uce", None, 19_169_280),
        ("receler", None, 3_209_408),
    ],
)
def test_stored_bytes_at_full_size(method: str, preset: str | None, parameters: int) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in make_unet(FULL).state_dict().items()}
    resolved = resolve_parameters(Eraser(method=method, preset=preset), "sd14")
    size = 2 if method.startswith("esd") and preset is None else 4
    assert stored_bytes(method, resolved, shapes) == parameters * size
