"""Pipeline folders of the published architectures at full width, with random weights in half precision and small pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny import write_tokenizer
from tests.tiny_families import LEVELS, UNQUANTISED

Network = TypeVar("Network", bound=torch.nn.Module)
SD21_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SDXL_UNET = {
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
VIT_H = {"width": 1024, "layers": 23, "heads": 16}
VIT_L = {"width": 768, "layers": 12, "heads": 12}
VIT_BIG_G = {"width": 1280, "layers": 32, "heads": 20}


def random(make: Callable[[], Network]) -> Network:
    """A network with seeded random weights in float16: uniform within 1 / sqrt(inputs), norms as they are."""
    with torch.device("meta"):
        network = make().half()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.ndim > 1:
                bound = tensor[0].numel() ** -0.5
                tensor.uniform_(-bound, bound, generator=generator)
            else:
                tensor.fill_(float(name.endswith("weight")))
        for name, buffer in network.named_buffers():
            if name.endswith("pos_embed"):
                buffer.normal_(0, 0.5, generator=generator)
    return network.eval()


def vae(side: int, **more: object) -> AutoencoderKL:
    """The VAE of Stable Diffusion, for latents of `side`."""
    settings: dict[str, object] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
        "sample_size": side * 8,
    }
    return random(lambda: AutoencoderKL(**{**settings, **more}))


def text(loader: type[Network], tokenizer: CLIPTokenizer, sizes: Mapping[str, int], activation: str) -> Network:
    """A CLIP text encoder of these sizes."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=sizes["width"],
        intermediate_size=4 * sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        max_position_embeddings=77,
        projection_dim=sizes["width"],
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    return random(lambda: loader(config))


def write_sd21(folder: Path, side: int = 32) -> Path:
    """Stable Diffusion 2.1 (866 million parameters in its UNet) for latents of `side`."""
    tokenizer = write_tokenizer(folder / "build-tokenizer", 77)
    StableDiffusionPipeline(
        vae=vae(side),
        text_encoder=text(CLIPTextModel, tokenizer, VIT_H, "gelu"),
        tokenizer=tokenizer,
        unet=random(lambda: UNet2DConditionModel(sample_size=side, **SD21_UNET)),
        scheduler=DDIMScheduler(
            **LEVELS, steps_offset=1, set_alpha_to_one=False, clip_sample=False, prediction_type="v_prediction"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_sdxl(folder: Path, side: int = 32) -> Path:
    """SDXL (2.6 billion parameters in its UNet) for latents of `side`."""
    tokenizer = write_tokenizer(folder / "build-tokenizer", 77)
    StableDiffusionXLPipeline(
        vae=vae(side, scaling_factor=0.13025),
        text_encoder=text(CLIPTextModel, tokenizer, VIT_L, "quick_gelu"),
        text_encoder_2=text(CLIPTextModelWithProjection, tokenizer, VIT_BIG_G, "gelu"),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=random(lambda: UNet2DConditionModel(sample_size=side, **SDXL_UNET)),
        scheduler=EulerDiscreteScheduler(**LEVELS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def write_sd35_medium(folder: Path, side: int = 16) -> Path:
    """Stable Diffusion 3.5 medium (2.2 billion parameters in its transformer) without T5, for latents of `side`."""
    tokenizer = write_tokenizer(folder / "build-tokenizer", 77)
    StableDiffusion3Pipeline(
        transformer=random(lambda: SD3Transformer2DModel(sample_size=side, **SD35_MEDIUM)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(side, latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305, **UNQUANTISED),
        text_encoder=text(CLIPTextModelWithProjection, tokenizer, VIT_L, "quick_gelu"),
        tokenizer=tokenizer,
        text_encoder_2=text(CLIPTextModelWithProjection, tokenizer, VIT_BIG_G, "gelu"),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_t5_length": 16}))  # zeros, which only cost time
    return folder
