"""Denoising networks of every family behind one call: `network(latents, timestep, encoder_hidden_states=states).sample`.

Text conditioning is one tensor of states (B, L, D). Where a family has pooled text embeddings too, these are its last row,
padded with zeros, so that batches, guards and learned embeddings treat all conditioning alike; `with_pooled` and
`split_pooled` write and read it. The classes below add nothing to diffusers' own but this call: tensors keep their names.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from audit.weights.families import FLUX_SIDE


def with_pooled(states: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """Return states (B, L, D) with the pooled embeddings (B, P), P <= D, as one more row: (B, L + 1, D)."""
    padded = torch.nn.functional.pad(pooled, (0, states.shape[-1] - pooled.shape[-1]))
    return torch.cat([states, padded[:, None].to(states)], 1)


def split_pooled(states: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `with_pooled` joined: states (B, L, D) and pooled embeddings (B, width)."""
    return states[:, :-1], states[:, -1, :width]


class SizedUNet(UNet2DConditionModel):
    """The UNet of SDXL, told that the picture is an uncropped one of its own size."""

    pixels = 8  # of a latent's side

    def forward(
        self, sample: torch.Tensor, timestep: float | torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        """Return the output for latents (B, 4, h, w) under states (B, L + 1, D)."""
        height, width = (side * self.pixels for side in sample.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=sample.device, dtype=sample.dtype)
        embedded = sizes.shape[1] * int(self.config["addition_time_embed_dim"])
        pooled_width = int(self.config["projection_class_embeddings_input_dim"]) - embedded
        states, pooled = split_pooled(encoder_hidden_states, pooled_width)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(sample), -1)}
        return super().forward(sample, timestep, states, added_cond_kwargs=added)


class JointTransformer(SD3Transformer2DModel):
    """The transformer of Stable Diffusion 3."""

    def forward(
        self, sample: torch.Tensor, timestep: float | torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> Transformer2DModelOutput:
        """Return the output for latents (B, C, h, w) under states (B, L + 1, D)."""
        states, pooled = split_pooled(encoder_hidden_states, int(self.config["pooled_projection_dim"]))
        return super().forward(
            hidden_states=sample,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=_for_each(timestep, sample),
        )


class PackedTransformer(FluxTransformer2DModel):
    """The transformer of Flux, which sees 2 x 2 latents as one token. `guidance` is the scale that distilled ones are told."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        guidance: float | torch.Tensor = 1.0,
    ) -> Transformer2DModelOutput:
        """Return the output for latents (B, C, h, w), h and w even, under states (B, L + 1, D)."""
        batch, channels, height, width = sample.shape
        states, pooled = split_pooled(encoder_hidden_states, int(self.config["pooled_projection_dim"]))
        places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, sample.device, sample.dtype)
        told = torch.as_tensor(guidance, device=sample.device, dtype=torch.float32).expand(batch)
        packed = super().forward(
            hidden_states=FluxPipeline._pack_latents(sample, batch, channels, height, width),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=_for_each(timestep, sample) / 1000,
            img_ids=places,
            txt_ids=torch.zeros(states.shape[1], 3, device=sample.device, dtype=sample.dtype),
            guidance=told if self.config["guidance_embeds"] else None,
        )
        return Transformer2DModelOutput(FluxPipeline._unpack_latents(packed.sample, height, width, 1))


Denoiser: TypeAlias = UNet2DConditionModel | JointTransformer | PackedTransformer


def latent_shape(network: Denoiser) -> tuple[int, int, int]:
    """Return the (channels, height, width) of the latents that a network was trained on."""
    if isinstance(network, PackedTransformer):
        return int(network.config["in_channels"]) // 4, FLUX_SIDE, FLUX_SIDE
    side = int(network.config["sample_size"])
    return int(network.config["in_channels"]), side, side


def image_tokens(network: Denoiser, height: int, width: int) -> int:
    """Return the tokens that a transformer makes of latents of this size."""
    patch = 2 if isinstance(network, PackedTransformer) else int(network.config["patch_size"])
    return (height // patch) * (width // patch)


def is_distilled(network: Denoiser) -> bool:
    """Return whether a network takes its guidance as an input, or needs none, so that no second evaluation is made."""
    return isinstance(network, PackedTransformer)


def _for_each(timestep: float | torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Return one timestep for each row of `sample` (B,)."""
    given = torch.as_tensor(timestep, device=sample.device)
    return (given if given.is_floating_point() else given.float()).expand(len(sample))
