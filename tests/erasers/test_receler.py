"""Receler: adapters learn, the backbone stays, and the regulariser looks only outside the concept."""

from __future__ import annotations

import pytest
import torch

from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.pipeline import Pipeline
from audit.erasers.produce import applied
from audit.erasers.receler import concept_mask, erase, outside, with_attack
from audit.errors import CheckpointError, EraserError
from audit.progress import Session
from tests.erasers.conftest import CONCEPT, quick, same, weights


def predicted(pipeline: Pipeline) -> torch.Tensor:
    latents = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return pipeline.unet(latents, 500, encoder_hidden_states=pipeline.encode_text(["abc", ""])).sample


@pytest.mark.parametrize("changes", [{}, {"latents_from": "frozen", "jitter": False, "pool": 2}])
def test_training_and_detaching_leave_the_backbone_bit_for_bit(pipeline: Pipeline, changes: dict[str, object]) -> None:
    before, output, processors = weights(pipeline), predicted(pipeline), dict(pipeline.unet.attn_processors)
    made = erase(pipeline, [CONCEPT], quick("receler", **changes), Session())
    assert same(before, weights(pipeline))
    assert pipeline.unet.attn_processors == processors
    assert torch.equal(predicted(pipeline), output)
    with applied(pipeline, made.layout, made.tensors):
        assert not torch.equal(predicted(pipeline), output)
    assert torch.equal(predicted(pipeline), output)
    assert made.tensors["down_blocks.0.attentions.0.up.weight"].any()
    assert made.config == {"eraser_type": "adapter", "eraser_rank": 4}


def test_the_adversarial_prompt_sits_right_after_the_word() -> None:
    states, attack = torch.zeros(1, 8, 2), torch.ones(1, 3, 2)
    changed = with_attack(states, attack, range(1, 3))
    assert changed[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]


def test_an_adversarial_prompt_without_room_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(EraserError, match="room for"):
        erase(pipeline, [CONCEPT], quick("receler", adversarial_tokens=16), Session())


def test_the_regulariser_counts_only_what_lies_outside_the_concept() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2] = True
    inside = torch.zeros(1, 16, 3)
    inside[:, :8] = 5.0
    assert outside([inside], mask) == 0
    assert outside([5.0 - inside], mask) == pytest.approx(25.0)
    small = torch.zeros(1, 4, 3)  # a 2 x 2 layer: its first row is the concept
    small[:, 2:] = 2.0
    assert outside([small, inside], mask) == pytest.approx(2.0)


def test_the_mask_is_scaled_row_by_row() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 10.0]], [[0.5, 0.5], [0.5, 0.6]]])
    assert concept_mask(maps, 0.1).tolist() == [[[False, True], [True, True]], [[False, False], [False, True]]]


def test_capturing_attention_changes_no_prediction(pipeline: Pipeline) -> None:
    output = predicted(pipeline)
    with CrossAttentionMaps(pipeline.unet, 8) as captured:
        assert torch.equal(predicted(pipeline), output)
    maps = captured.mean(range(16))
    assert maps.shape == (2, 8, 8)
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / 16))  # attention sums to one over the 16 tokens
    with CrossAttentionMaps(pipeline.unet, 5) as captured:
        predicted(pipeline)
    with pytest.raises(CheckpointError, match="5 x 5"):
        captured.mean(range(1, 2))
