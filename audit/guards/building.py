"""Guards from their resolved parameters and the models of one worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from audit.diffusion.guard import Guard
from audit.diffusion.pipeline import Pipeline
from audit.guards import egloce, irece, negative_prompt, safree, sld
from audit.guards.energy import Energy, load_energy
from audit.weights.references import ModelRef

Encode = Callable[[list[str]], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What guards are made of.

    `standard` is the un-erased backbone and `standard_unet` its UNet in the dtype in use; `guarded` and `guarded_unet`
    belong to the model that is protected. `encode` reads text as that model does, `encode_standard` as the backbone.
    `energy` finds the model with a digest.
    """

    standard: Pipeline
    standard_unet: Callable[[], UNet2DConditionModel]
    guarded: Pipeline
    guarded_unet: Callable[[], UNet2DConditionModel]
    encode: Encode
    encode_standard: Encode
    energy: Callable[[str], ModelRef]


def build(described: Mapping[str, Any], parts: Parts) -> Guard:
    """One fresh guard; `described` is what `audit.guards.resolve` returned. Raises KeyError for an unknown name."""
    return _BUILDERS[described["name"]](described["parameters"], parts)


def _negative_prompt(parameters: Mapping[str, Any], parts: Parts) -> Guard:
    return negative_prompt.NegativePrompt(parameters["text"], parts.encode)


def _sld(parameters: Mapping[str, Any], parts: Parts) -> Guard:
    return sld.Sld(parameters, parts.encode)


def _safree(parameters: Mapping[str, Any], parts: Parts) -> Guard:
    return safree.Safree(parts.guarded, parameters)


def _irece(parameters: Mapping[str, Any], parts: Parts) -> Guard:
    unet, tokenizer = parts.standard_unet(), parts.standard.tokenizer
    return irece.Irece(irece.Localiser(unet, tokenizer, parts.encode_standard, parameters), parameters)


def _egloce(parameters: Mapping[str, Any], parts: Parts) -> Guard:
    if parameters["checkpointing"]:
        # Blocks are computed again for the backward pass; without gradients, as everywhere else, nothing changes.
        parts.guarded_unet().enable_gradient_checkpointing()
        parts.standard.vae.enable_gradient_checkpointing()
    return egloce.Egloce(energy_of(parameters, parts), decoder(parts.standard), parameters)


def energy_of(parameters: Mapping[str, Any], parts: Parts) -> Energy:
    """The energy network of EGLOCE's parameters, on the pipeline's device."""
    texts = (tuple(parameters["templates"]), tuple(parameters["phrases"]))
    return load_energy(parts.energy(parameters["energy_sha256"]), str(parts.standard.device), *texts)


def decoder(pipeline: Pipeline) -> egloce.Decode:
    """Clean latents (B, 4, h, w) -> pictures (B, 3, H, W) in [-1, 1], differentiable."""
    scale = pipeline.vae.config["scaling_factor"]

    def decode(latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = pipeline.vae.decode(latents.to(pipeline.vae.dtype) / scale).sample
        return images.clamp(-1, 1)

    return decode


_BUILDERS: Mapping[str, Callable[[Mapping[str, Any], Parts], Guard]] = {
    negative_prompt.NAME: _negative_prompt,
    sld.NAME: _sld,
    safree.NAME: _safree,
    irece.NAME: _irece,
    egloce.NAME: _egloce,
}
