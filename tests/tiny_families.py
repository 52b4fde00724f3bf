"""Pipelines of every family at a size that builds in milliseconds, with seeded random weights: real classes, 16 x 16 pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.tiny import SD14_SCHEDULER, write_tokenizer

LEVELS = {name: SD14_SCHEDULER[name] for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
UNQUANTISED = {"use_quant_conv": False, "use_post_quant_conv": False}


def write_sd2(folder: Path) -> Path:
    """A pipeline shaped like Stable Diffusion 2.1: v-prediction, linear projections, gelu."""
    tokenizer = write_tokenizer(folder / "build-tokenizer")
    with _seeded():
        pipe = StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_clip(tokenizer, 16, hidden_act="gelu")),
            tokenizer=tokenizer,
            unet=_unet(cross_attention_dim=16, use_linear_projection=True, attention_head_dim=(2, 4)),
            scheduler=DDIMScheduler(
                **LEVELS,
                steps_offset=1,
                set_alpha_to_one=False,
                clip_sample=False,
                prediction_type="v_prediction",
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder)
    return folder


def write_sdxl(folder: Path) -> Path:
    """A pipeline shaped like SDXL: two text encoders, size conditioning, Euler's scheduler in the folder."""
    tokenizer = write_tokenizer(folder / "build-tokenizer")
    with _seeded():
        pipe = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=CLIPTextModel(_clip(tokenizer, 16)),
            text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 32, hidden_act="gelu")),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=_unet(
                cross_attention_dim=48,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 12,
                transformer_layers_per_block=(2, 1),
                use_linear_projection=True,
            ),
            scheduler=EulerDiscreteScheduler(**LEVELS, steps_offset=1, timestep_spacing="leading"),
            add_watermarker=False,
        )
    pipe.save_pretrained(folder)
    return folder


def write_sd3(folder: Path, *, t5: bool = True, tokenizer: CLIPTokenizer | None = None, projected: bool = True) -> Path:
    """A pipeline shaped like Stable Diffusion 3.5 medium, with or without T5.

    The published one's first text encoder has the identity for its projection: `projected=False`.
    """
    tokenizer = tokenizer or write_tokenizer(folder / "build-tokenizer")
    with _seeded():
        pipe = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=8,
                joint_attention_dim=64,
                caption_projection_dim=16,
                pooled_projection_dim=24 if projected else 28,
                pos_embed_max_size=8,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305, **UNQUANTISED),
            text_encoder=CLIPTextModelWithProjection(_clip(tokenizer, 16, projection_dim=12 if projected else 16)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 32, hidden_act="gelu")),
            tokenizer_2=tokenizer,
            text_encoder_3=_t5(64) if t5 else None,
            tokenizer_3=_t5_tokenizer() if t5 else None,
        )
        if not projected:
            torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
    pipe.save_pretrained(folder)
    return folder


def write_flux(folder: Path, *, guided: bool = True) -> Path:
    """A pipeline shaped like Flux.1: dev, distilled with guidance, or schnell."""
    tokenizer = write_tokenizer(folder / "build-tokenizer")
    with _seeded():
        pipe = FluxPipeline(
            transformer=FluxTransformer2DModel(
                patch_size=1,
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=16,
                guidance_embeds=guided,
                axes_dims_rope=(4, 6, 6),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
            vae=_vae(latent_channels=16, shift_factor=0.1159, scaling_factor=0.3611, **UNQUANTISED),
            text_encoder=CLIPTextModel(_clip(tokenizer, 16)),
            tokenizer=tokenizer,
            text_encoder_2=_t5(32),
            tokenizer_2=_t5_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "sd2": write_sd2,
    "sdxl": write_sdxl,
    "sd3": write_sd3,
    "flux": write_flux,
}


class _seeded:
    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng()
        self._fork.__enter__()
        torch.manual_seed(0)

    def __exit__(self, *reason: object) -> None:
        self._fork.__exit__(None, None, None)


def _unet(**more: object) -> UNet2DConditionModel:
    settings: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **more})


def _vae(**more: object) -> AutoencoderKL:
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": 16,
            **more,
        }
    )


def _clip(tokenizer: CLIPTokenizer, width: int, **more: object) -> CLIPTextConfig:
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": int(tokenizer.model_max_length),
        "projection_dim": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**{**settings, **more})


def _t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=40, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
        )
    ).eval()


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return T5TokenizerFast(vocab=[(piece, 0.0 if i < 3 else -2.0) for i, piece in enumerate(pieces)], extra_ids=0)
