"""The published architectures at full size, laid out without memory: shapes go through our call, and settings are accepted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from audit.diffusion.denoisers import JointTransformer, PackedTransformer, SizedUNet
from audit.diffusion.strict_loading import diffusers_layout
from audit.weights import settings

SDXL = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
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
        (JointTransformer, SD35_MEDIUM, (77 + 256 + 1, 4096), 16, 2243),
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
    assert settings.transformer_problem(SD35_MEDIUM, "SD3Transformer2DModel") is None
    assert settings.transformer_problem(FLUX_DEV, "FluxTransformer2DModel") is None
    assert "projection_class_embeddings_input_dim" in str(settings.unet_problem(SDXL))
