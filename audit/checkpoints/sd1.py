"""Give the names and shapes of Stable Diffusion 1.x from its architecture alone, to recognise a file without the weights."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from audit.checkpoints.tensors import BackboneTensors, bare_text_names, in_memory


def sd1_names() -> BackboneTensors:
    """Return every tensor of SD 1.4's and 1.5's UNet (686) and text encoder (196), on the meta device: none has values."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                max_position_embeddings=77,
            )
        )
    return BackboneTensors(in_memory(unet.state_dict()), bare_text_names(in_memory(text.state_dict())))
