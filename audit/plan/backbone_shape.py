"""Sizes of a backbone that a forecast needs, read from its configuration and from the headers of its weight files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from audit.weights.families import FLUX_SIDE, LAYOUTS
from audit.weights.files import read_json
from audit.weights.references import ModelRef, denoiser_part, stored_shapes
from audit.weights.schedulers import PUBLISHED, own_scheduler


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a backbone's pictures, latents and weights, and its scheduler, from its configuration files."""

    resolution: int
    latent_bytes: int
    unet: Mapping[str, tuple[int, ...]] = dataclasses.field(hash=False)  # shape of every UNet tensor
    scheduler: Mapping[str, object] = dataclasses.field(
        default_factory=lambda: PUBLISHED, hash=False
    )  # as `choose` takes it
    distilled: bool = False  # whether guidance costs no second evaluation: Flux is told it, or needs none


def shape_of(backbone: ModelRef) -> Shape:
    """Return the sizes of a pipeline, read from its configuration and the headers of its weight files."""
    folder = backbone.path
    part = denoiser_part(folder)
    unet, vae = read_json(folder / part / "config.json"), read_json(folder / "vae" / "config.json")
    side = int(unet.get("sample_size", FLUX_SIDE))
    return Shape(
        resolution=side * 2 ** (len(vae["block_out_channels"]) - 1),
        latent_bytes=int(vae.get("latent_channels", 4)) * side * side * 4,
        unet=stored_shapes(backbone, part),
        scheduler=own_scheduler(folder),
        distilled=read_json(folder / "model_index.json").get("_class_name") in LAYOUTS["flux"].pipelines,
    )


def sd1_shape() -> Shape:
    """Return the sizes of Stable Diffusion v1.x from its architecture alone, for a backbone that is not on this machine."""
    from audit.checkpoints.sd1 import sd1_names  # imports torch

    shapes = {name: tensor.shape for name, tensor in sd1_names().unet.items()}
    return Shape(resolution=512, latent_bytes=4 * 64 * 64 * 4, unet=shapes)
