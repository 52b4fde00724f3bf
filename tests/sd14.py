"""Stable Diffusion v1.4's architecture with random weights: at full size, or with its widths cut down."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.tiny import SD14_SCHEDULER, write_tokenizer


@dataclasses.dataclass(frozen=True)
class Widths:
    """What may be cut without changing the architecture's shape: four levels, 16 cross-attention layers, f = 8."""

    unet: tuple[int, int, int, int]
    vae: tuple[int, int, int, int]
    text: int
    text_layers: int
    side: int  # of the latents
    groups: int


FULL = Widths((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 64, 32)
CUT = Widths((32, 32, 64, 64), (16, 16, 32, 32), 32, 2, 8, 8)


def make_unet(widths: Widths) -> UNet2DConditionModel:
    """The UNet of SD v1.4's config.json."""
    return UNet2DConditionModel(
        sample_size=widths.side,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths.unet,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=widths.text,
        attention_head_dim=8,
        norm_num_groups=widths.groups,
    )


def make_vae(widths: Widths) -> AutoencoderKL:
    """The VAE of SD v1.4's config.json."""
    return AutoencoderKL(
        block_out_channels=widths.vae,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        norm_num_groups=widths.groups,
        sample_size=widths.side * 8,
    )


def make_text(widths: Widths, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder of SD v1.4's config.json, for the tokens of `tokenizer`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408 if widths is FULL else len(tokenizer),
            hidden_size=widths.text,
            intermediate_size=4 * widths.text,
            num_hidden_layers=widths.text_layers,
            num_attention_heads=widths.text // 16 if widths is CUT else 12,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def write_sd14(folder: Path, widths: Widths) -> Path:
    """A pipeline folder of this architecture with seeded random weights."""
    tokenizer = write_tokenizer(folder / "build-tokenizer", 77)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = StableDiffusionPipeline(
            vae=make_vae(widths),
            text_encoder=make_text(widths, tokenizer),
            tokenizer=tokenizer,
            unet=make_unet(widths),
            scheduler=PNDMScheduler(**SD14_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder)
    return folder
