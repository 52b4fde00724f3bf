"""The published architectures at full size, laid out without memory: shapes go through our call, and settings are accepted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from audit.diffusion.denoisers import JointTransformer, PackedTransformer, SizedUNet
from audit.diffusion.strict_loading import diffusers_layout
from audit.weights import settings
from tests.full_size import SD35_MEDIUM, SDXL_UNET

SDXL = {"sample_size": 128, "in_channels": 4, "out_channels": 4, **SDXL_UNET}
SD35 = {"sample_size": 128, **SD35_MEDIUM}
FLUX_DEV = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}


@pytest.mark.parametrize(
    ("loader", "config", "states", "channels", "millions"),
    [
        (SizedUNet, SDXL, (78, 2048), 4, 2567),
        (JointTransformer, SD35, (77 + 256 + 1, 4096), 16, 2243),
        (PackedTransformer, FLUX_DEV, (512 + 1, 4096), 16, 11901),
    ],
)
def test_a_full_size_network_takes_states_with_the_pooled_row(
    loader: Any, config: dict[str, Any], states: tuple[int, int], channels: int, millions: int
) -> None:
    network = diffusers_layout(loader, config)
    assert sum(p.numel() for p in network.parameters()) // 10**6 == pytest.approx(millions, rel=0.12)
    latents = torch.zeros(1, channels, 128, 128, device="meta")
    with torch.no_grad():
        out = network(latents, 500.0, encoder_hidden_states=torch.zeros(1, *states, device="meta")).sample
    assert out.shape == latents.shape


def test_their_settings_are_honoured() -> None:
    assert settings.unet_problem(SDXL, sized=True) is None
    assert settings.transformer_problem(SD35, "SD3Transformer2DModel") is None
    assert settings.transformer_problem(FLUX_DEV, "FluxTransformer2DModel") is None
    assert "projection_class_embeddings_input_dim" in str(settings.unet_problem(SDXL))
