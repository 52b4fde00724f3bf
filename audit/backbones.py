"""Load a Stable-Diffusion-shaped pipeline: the testbed, a local diffusers folder, or a pinned hub snapshot.

All three go through the same diffusers loader. The safety checker is never loaded: it would black out exactly the
pictures the audit has to see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from audit.errors import CheckpointError
from audit.learned import Tokens, Vocabulary, encode, tokenize
from audit.model_refs import ModelRef, pipeline_family
from audit.sampling import NoiseModel, Schedule, make_schedule


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A loaded backbone. `vae` and `text_encoder` run in float32; `unet` in the dtype asked for."""

    ref: ModelRef
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]
    device: torch.device
    vocabulary: Vocabulary = dataclasses.field(
        default_factory=Vocabulary
    )  # learned words, known beside the tokenizer's

    @property
    def resolution(self) -> int:
        """Side of the square pictures, in pixels."""
        return int(self.unet.config["sample_size"]) * 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        side = int(self.unet.config["sample_size"])
        return int(self.unet.config["in_channels"]), side, side

    def latent_shape_of(self, width: int | None, height: int | None) -> tuple[int, int, int]:
        """(channels, height, width) of the latent of a picture, in pixels; None is the backbone's own side."""
        channels, side, _ = self.latent_shape
        factor = self.resolution // side
        return channels, (height or self.resolution) // factor, (width or self.resolution) // factor

    def schedule(self, steps: int) -> Schedule:
        """DDIM coefficients of this pipeline's noise levels for `steps` steps."""
        return make_schedule(self.scheduler_config, steps)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Text-encoder states (B, L, D) in float32; "" is the null prompt. Longer texts are refused, never cut."""
        states: torch.Tensor = encode(self.text_encoder, self.tokens(texts)).last_hidden_state
        return states.float()

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts as tokens (B, L), learned words included."""
        return tokenize(self.tokenizer, texts, self.vocabulary)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, 4, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mean, not a sample."""
        mean = self.vae.encode(images.to(self.device, torch.float32)).latent_dist.mean
        return mean * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), float32, clamped to [-1, 1], of scaled latents (B, 4, h, w).

        What is not finite becomes NaN: clamped, an overflow would look like white.
        """
        images = self.vae.decode(latents.float() / self.vae.config["scaling_factor"]).sample
        return torch.where(torch.isfinite(images), images, torch.nan).clamp(-1, 1)


def noise_model(unet: UNet2DConditionModel) -> NoiseModel:
    """`(latents, timestep, states) -> noise`, evaluated in the UNet's own dtype and returned in float32."""
    dtype = unet.dtype

    def predict(latents: torch.Tensor, timestep: int, states: torch.Tensor) -> torch.Tensor:
        return unet(latents.to(dtype), timestep, encoder_hidden_states=states.to(dtype)).sample.float()

    return predict


def load_pipeline(ref: ModelRef, device: torch.device, dtype: torch.dtype = torch.float32) -> Pipeline:
    """The loaded backbone, in evaluation mode.

    Raises `CheckpointError` when the folder is another family (SD 2.x, SDXL) or a component cannot be loaded.
    """
    pipeline_family(ref)
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            ref.path,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            use_safetensors=True,
            local_files_only=True,
            variant=ref.variant,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the pipeline cannot be loaded: {str(error).strip().splitlines()[0]}",
            where=str(ref.path),
            next_step="pass a complete diffusers folder with safetensors weights, then run: erasure-audit doctor",
        ) from error
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    return Pipeline(
        ref=ref,
        unet=pipe.unet.to(device, dtype),
        vae=pipe.vae.to(device),
        text_encoder=pipe.text_encoder.to(device),
        tokenizer=pipe.tokenizer,
        scheduler_config=dict(pipe.scheduler.config),
        device=device,
    )
