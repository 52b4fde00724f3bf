"""Small disturbances of an attack's input: of reference images before inversion, and of latents after it.

Each picture's noise comes from its own seed, and does not depend on the strength: a curve over strengths compares the
same direction of noise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from audit import identity

NAME = "perturbation"
VERSION = "1"


def perturb_latents(latents: torch.Tensor, kind: str, strength: float, seeds: Sequence[int]) -> torch.Tensor:
    """Add N(0, strength^2) noise to latents (B, C, H, W); `latent-noise-sphere` gives each its own norm back.

    Raises ValueError for other kinds.
    """
    if kind not in ("latent-noise", "latent-noise-sphere"):
        raise ValueError(f"{kind!r} does not perturb latents")
    noise = torch.stack([_normal(kind, seed, latents.shape[1:]) for seed in seeds]).to(latents)
    moved = latents + strength * noise
    if kind == "latent-noise":
        return moved
    norms = [tensor.flatten(1).norm(dim=1).clamp_min(1e-12) for tensor in (latents, moved)]
    return moved * (norms[0] / norms[1])[:, None, None, None]


def perturb_image(pixels: npt.NDArray[np.float32], kind: str, strength: float, item: str) -> npt.NDArray[np.float32]:
    """Return a reference image (H, W, 3), in [-1, 1], disturbed; `item`, its pixel hash, seeds the noise.

    `image-noise` has a standard deviation of `strength` grey levels of 255, `image-jpeg` that quality, and
    `image-resize` scales both sides by `strength` and back, bilinearly. Raises ValueError for other kinds.
    """
    if kind == "image-noise":
        seed = identity.int_key({"item": item, "purpose": kind})
        noise = _normal("image-noise", seed, pixels.shape).numpy()
        moved: npt.NDArray[np.float32] = np.clip(pixels + np.float32(strength / 127.5) * noise, -1.0, 1.0)
        return moved
    image = Image.fromarray(np.round((pixels + 1.0) * 127.5).astype(np.uint8))
    if kind == "image-jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(strength))
        image = Image.open(buffer).convert("RGB")
    elif kind == "image-resize":
        small = tuple(max(1, round(side * strength)) for side in image.size)
        image = image.resize((small[0], small[1]), Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BILINEAR
        )
    else:
        raise ValueError(f"{kind!r} does not perturb images")
    return np.asarray(image, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


def _normal(kind: str, seed: int, shape: Sequence[int]) -> torch.Tensor:
    # Both latent kinds draw the same noise, another than the seed's own initial noise.
    stream = identity.int_key({"perturbation": kind.removesuffix("-sphere"), "seed": seed})
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(stream))
