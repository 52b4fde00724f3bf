"""The training loop of the testbed: seeded, resumable after any interruption, its checkpoint whole at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from audit.testbed import loop
from audit.testbed.loop import Training, build, recorded

STEPS = 6
Loss = Callable[[torch.Generator], torch.Tensor]


class Net(nn.Module):
    """A layer that is trained, and a buffer that is no floating-point number, as a text encoder's position ids are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def training(folder: Path, seed: int = 5, steps: int = STEPS, matrices: Sequence[str] = ()) -> tuple[Training, Net]:
    net = build(Net, seed)
    return Training("net", folder, {"net": net}, steps=steps, peak=1e-2, seed=seed, matrices=matrices), net


def loss_of(net: Net, stop_before: int | None = None) -> Loss:
    """The error on a batch that the step's generator draws; as Ctrl-C before step `stop_before`."""
    steps = 0

    def loss(generator: torch.Generator) -> torch.Tensor:
        nonlocal steps
        if steps == stop_before:
            raise KeyboardInterrupt
        steps += 1
        net.seen += 1
        inputs = torch.randn((16, 4), generator=generator)
        return (net.layer(inputs).float() - inputs[:, :2]).pow(2).mean()

    return loss


def finish(folder: Path, seed: int = 5) -> dict[str, Any]:
    """What the checkpoint holds after the last step; the training goes on from what is in the folder."""
    trained, net = training(folder, seed)
    trained.run(loss_of(net))
    return state(folder)


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "net.pt", weights_only=True)
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal to the bit, but for how long it took."""
    assert one["step"] == other["step"] == STEPS
    for part in ("modules", "ema"):
        assert one[part].keys() == other[part].keys()
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), (part, name)
    moments, others = one["optimiser"]["state"], other["optimiser"]["state"]
    assert moments.keys() == others.keys() != set()
    assert all(torch.equal(moments[n][name], others[n][name]) for n in moments for name in moments[n])
    assert one["optimiser"]["param_groups"] == other["optimiser"]["param_groups"]


def interrupted(folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ended as by Ctrl-C after some steps, with a checkpoint of the last of them."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", after)
    trained, net = training(folder)
    with pytest.raises(KeyboardInterrupt):
        trained.run(loss_of(net, stop_before=after))
    assert state(folder)["step"] == after


def test_an_interrupted_training_ends_as_one_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = finish(tmp_path / "straight")
    interrupted(tmp_path / "pieces", 3, monkeypatch)
    assert_same(finish(tmp_path / "pieces"), straight)


def test_matrices_are_trained_by_muon_and_resume_with_its_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each update of a matrix has singular values that are all about equal; AdamW trains the biases."""
    matrices = ("net.layer.0.weight", "net.layer.2.weight")
    trained, net = training(tmp_path / "straight", matrices=matrices)
    before = {name: value.detach().clone() for name, value in trained.modules.named_parameters()}
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 1e-2)
    with pytest.raises(KeyboardInterrupt):
        trained.run(loss_of(net, stop_before=1))
    for name, value in trained.modules.named_parameters():
        update = (value - before[name]).detach()
        assert update.abs().max() > 0, name
        if name in matrices:
            values = torch.linalg.svdvals(update)
            assert values.min() > values.max() / 2, name
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3)
        trained, net = training(tmp_path / "pieces", matrices=matrices)
        trained.run(loss_of(net, stop_before=3))
    for folder in ("pieces", "whole"):
        trained, net = training(tmp_path / folder, matrices=matrices)
        trained.run(loss_of(net))
    assert_same(state(tmp_path / "pieces"), state(tmp_path / "whole"))
    momenta = [state(tmp_path / folder)["muon"]["state"] for folder in ("pieces", "whole")]
    assert [*momenta[0]] == [0, 1]
    assert all(torch.equal(momenta[0][n]["momentum_buffer"], momenta[1][n]["momentum_buffer"]) for n in momenta[0])


def test_a_finished_training_is_only_loaded_and_hands_out_its_average(tmp_path: Path) -> None:
    average = finish(tmp_path)["ema"]
    trained, net = training(tmp_path)

    def loss(generator: torch.Generator) -> torch.Tensor:
        raise AssertionError("trained on")

    trained.run(loss)
    assert not net.training
    assert all(torch.equal(average[f"net.{name}"], value) for name, value in net.state_dict().items())
    assert any(not torch.equal(average[name], value) for name, value in state(tmp_path)["modules"].items())


def test_a_seed_determines_the_training_and_the_global_state_takes_no_part(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first = finish(tmp_path / "first")
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)
        assert_same(finish(tmp_path / "second"), first)
    other = finish(tmp_path / "third", seed=6)
    assert not torch.equal(other["ema"]["net.layer.0.weight"], first["ema"]["net.layer.0.weight"])


def test_a_save_that_was_killed_half_way_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = finish(tmp_path / "straight")
    interrupted(tmp_path / "pieces", 3, monkeypatch)
    kept = (tmp_path / "pieces" / "net.pt").read_bytes()
    save = torch.save

    def half(found: object, path: Path) -> None:
        save(found, path)
        path.write_bytes(path.read_bytes()[: len(kept) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", half)
        finish(tmp_path / "pieces")
    assert (tmp_path / "pieces" / "net.pt").read_bytes() == kept
    assert_same(finish(tmp_path / "pieces"), straight)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    trained, _ = training(tmp_path)
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        trained.run(lambda generator: torch.tensor(float("nan")))
    assert not (tmp_path / "net.pt").exists()


def test_the_checkpoint_records_the_time_of_all_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by ten seconds whenever it is read; one reading a sitting is its start."""
    assert recorded(tmp_path, "net") is None
    readings = iter(range(0, 10_000, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(readings)))
    interrupted(tmp_path, 3, monkeypatch)
    assert recorded(tmp_path, "net") == (3, 30.0)
    finish(tmp_path)
    assert recorded(tmp_path, "net") == (STEPS, 60.0)
