"""The phases in which the testbed's second backbone is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from audit.machine.compilers import has_compiler
from audit.testbed import train, train_flow
from audit.testbed.captions import ALL_CLASSES
from audit.testbed.data import NOTHING, Scenes
from audit.testbed.saving import WEIGHTS
from audit.testbed.train_flow import FIRST, FOURTH, OFTENER, PHASES, SECOND, THIRD, Phase


def short(phase: Phase) -> Phase:
    return dataclasses.replace(phase, steps=2, scenes=16, batch=4)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_phase_trains_transformer_and_text_encoder(
    phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler, which would take a minute; a machine without one trains so too."""
    monkeypatch.setattr(train_flow, "has_compiler", lambda: False)
    vae, first, second, tokenizer, transformer = train_flow.train_flow(short(phase), tmp_path)
    state = torch.load(tmp_path / f"{phase.name}.pt", weights_only=True)
    assert state["step"] == 2
    assert ("muon" in state) == phase.further
    assert not transformer.training
    assert all(torch.isfinite(value).all() for part in (transformer, second) for value in part.parameters())
    assert vae.config["shift_factor"] and first.config.projection_dim and len(tokenizer)


def test_the_stages_of_the_command_are_the_phases() -> None:
    assert tuple(phase.name for phase in PHASES) == train.FLOW


@pytest.mark.parametrize(
    ("before", "after"),
    [(FIRST, SECOND), (SECOND, THIRD), (THIRD, FOURTH)],
    ids=["second", "third", "fourth"],
)
def test_a_further_phase_begins_with_the_average_that_the_one_before_left(
    before: Phase, after: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_flow, "has_compiler", lambda: False)
    *_, text, _, trained = train_flow.train_flow(short(before), tmp_path)
    *_, second, _, transformer = train_flow.train_flow(dataclasses.replace(short(after), steps=0), tmp_path)
    for one, other in ((text, second), (trained, transformer)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_without_a_first_phase_the_second_begins_with_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_flow, "has_compiler", lambda: False)
    *_, second, _, transformer = train_flow.train_flow(dataclasses.replace(short(SECOND), steps=0), tmp_path)
    shipped = SD3Transformer2DModel.from_pretrained(WEIGHTS / "sd3" / "transformer", torch_dtype=torch.float32)
    assert all(torch.equal(value, transformer.state_dict()[name]) for name, value in shipped.state_dict().items())
    assert second.config.projection_dim == shipped.config.pooled_projection_dim // 2


def test_scenes_of_the_classes_that_a_phase_names_are_drawn_more_often() -> None:
    ring, cross, hexagon = (ALL_CLASSES.index(name) for name in ("ring", "cross", "hexagon"))
    classes = [(ring, NOTHING), (cross, NOTHING), (ring, hexagon), (hexagon, cross)]
    objects = np.array([[(kind, 0, 0) for kind in pair] for pair in classes])
    scenes = Scenes(np.zeros((4, 64, 64, 3), np.uint8), objects, np.zeros(4, np.int64), np.zeros((4, 64), np.int64))
    assert train_flow._chances(scenes, ("cross", "hexagon")).tolist() == [1, OFTENER, OFTENER, OFTENER]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch.compile says while it traces
@pytest.mark.skipif(not has_compiler(), reason="nothing here compiles")
def test_a_compiled_network_is_trained_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding, of which the first steps of Adam and Muon make much: they divide by the gradient's size."""
    *_, compiled = train_flow.train_flow(short(THIRD), tmp_path / "compiled")
    monkeypatch.setattr(train_flow, "has_compiler", lambda: False)
    *_, plain = train_flow.train_flow(short(THIRD), tmp_path / "plain")
    shipped = SD3Transformer2DModel.from_pretrained(WEIGHTS / "sd3" / "transformer", torch_dtype=torch.float32)
    moved = distance(shipped, plain)
    assert moved > 0
    assert distance(compiled, plain) < 0.3 * moved


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a - b).pow(2).sum()) for a, b in pairs) ** 0.5


def test_attention_is_computed_in_float32_under_autocast() -> None:
    """Its backward pass in bfloat16 is slower on processors; the result is rounded by what follows."""
    query = torch.randn(1, 2, 8, 4)
    with torch.autocast("cpu", torch.bfloat16), train_flow._AttentionInFloat32():
        answer = torch.nn.functional.scaled_dot_product_attention(query.bfloat16(), query, query)
        product = query @ query.mT
    assert answer.dtype is torch.float32
    assert product.dtype is torch.bfloat16
