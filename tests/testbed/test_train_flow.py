"""The two phases in which the testbed's second backbone is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from audit.testbed import train_flow
from audit.testbed.saving import WEIGHTS
from audit.testbed.train_flow import FIRST, SECOND, Phase


def short(phase: Phase) -> Phase:
    return dataclasses.replace(phase, steps=2, scenes=16, batch=4)


@pytest.mark.parametrize("phase", [FIRST, SECOND], ids=lambda phase: phase.name)
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


def test_the_second_phase_begins_with_the_average_that_the_first_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_flow, "has_compiler", lambda: False)
    *_, text, _, trained = train_flow.train_flow(short(FIRST), tmp_path)
    *_, second, _, transformer = train_flow.train_flow(dataclasses.replace(short(SECOND), steps=0), tmp_path)
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


def test_attention_is_computed_in_float32_under_autocast() -> None:
    """Its backward pass in bfloat16 is slower on processors; the result is rounded by what follows."""
    query = torch.randn(1, 2, 8, 4)
    with torch.autocast("cpu", torch.bfloat16), train_flow._AttentionInFloat32():
        answer = torch.nn.functional.scaled_dot_product_attention(query.bfloat16(), query, query)
        product = query @ query.mT
    assert answer.dtype is torch.float32
    assert product.dtype is torch.bfloat16
