"""CLIP embeddings of decoded pictures, differentiable, for what steers or moves a picture by them.

The network is never one that scores (`audit.plan.preflight.clip_models` refuses it), and its own tokenizer reads the texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.text import load_tokenizer
from audit.files import Document
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Views:
    """Random crops and colour factors of one case, drawn once for a step: offsets and sides as shares, factors near 1."""

    tops: tuple[float, ...]
    lefts: tuple[float, ...]
    sides: tuple[float, ...]
    gains: tuple[tuple[float, float, float], ...]


def draw_views(count: int, generator: torch.Generator) -> Views:
    """Draw `count` views: crops of 80 to 100 % of the side, each colour channel times 0.8 to 1.2."""
    numbers = torch.rand((count, 6), generator=generator).tolist()
    sides = tuple(0.8 + 0.2 * row[0] for row in numbers)
    tops = tuple(row[1] * (1 - side) for row, side in zip(numbers, sides, strict=True))
    lefts = tuple(row[2] * (1 - side) for row, side in zip(numbers, sides, strict=True))
    gains = tuple((0.8 + 0.4 * row[3], 0.8 + 0.4 * row[4], 0.8 + 0.4 * row[5]) for row in numbers)
    return Views(tops, lefts, sides, gains)


def view_of(image: torch.Tensor, views: Views) -> torch.Tensor:
    """Return the views (V, 3, H, W) of one picture (3, H, W) in [-1, 1], each resized to the picture's size."""
    side = image.shape[-1]
    crops = []
    for top, left, share, gains in zip(views.tops, views.lefts, views.sides, views.gains, strict=True):
        size = max(1, round(share * side))
        y, x = min(round(top * side), side - size), min(round(left * side), side - size)
        crop = image[None, :, y : y + size, x : x + size]
        crop = F.interpolate(crop, size=(side, side), mode="bilinear", align_corners=False)
        crops.append((crop * crop.new_tensor(gains)[None, :, None, None]).clamp(-1, 1))
    return torch.cat(crops)


class DifferentiableClip:
    """Embeddings by a CLIPModel in evaluation mode; `tokenizer` and `settings`, of its preprocessor, are its own."""

    def __init__(self, network: CLIPModel, tokenizer: PreTrainedTokenizerBase, settings: Document) -> None:
        self._network, self._tokenizer = network, tokenizer
        self._side = int(network.config.vision_config.image_size)
        parameter = next(network.parameters())
        self._mean = parameter.new_tensor(settings["image_mean"])[None, :, None, None]
        self._std = parameter.new_tensor(settings["image_std"])[None, :, None, None]

    @property
    def logit_scale(self) -> float:
        """The factor of cosines by which the network was trained to tell texts apart."""
        return float(self._network.logit_scale.exp())

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit embeddings (n, D) of texts."""
        encoded = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._mean.device)
        pooled = self._network.text_model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask)
        return unit(self._network.text_projection(pooled.pooler_output))

    def directions(self, templates: Sequence[str], phrases: Sequence[str]) -> torch.Tensor:
        """Return a unit row (n, D) for each phrase: the mean of its embeddings in all `templates`, which have `{phrase}`."""
        rows = [[template.replace("{phrase}", phrase) for template in templates] for phrase in phrases]
        return torch.stack([unit(self.texts(row).mean(0)) for row in rows])

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings (B, D) of pictures (B, 3, H, W) in [-1, 1], differentiable."""
        size = (self._side, self._side)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        values = ((images.to(self._mean.dtype) / 2 + 0.5).clamp(0, 1) - self._mean) / self._std
        pooled = self._network.vision_model(pixel_values=values).pooler_output
        return unit(self._network.visual_projection(pooled))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors (..., D) of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def load_parts(ref: ModelRef, device: str) -> tuple[CLIPModel, PreTrainedTokenizerBase, Document]:
    """Load what `DifferentiableClip` takes from a CLIPModel folder. Raises `DetectorError` when it cannot be loaded whole."""
    from transformers import CLIPModel

    from audit.instruments.detectors.folders import load_network
    from audit.weights.files import read_json

    network = load_network(CLIPModel, ref, device)
    return network, load_tokenizer(ref.path), read_json(ref.path / "preprocessor_config.json")


def decoder(pipeline: Pipeline) -> Decode:
    """Return a differentiable decoder of clean latents (B, 4, h, w) into pictures (B, 3, H, W) in [-1, 1]."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = pipeline.vae.decode(pipeline.unscaled(latents.to(pipeline.vae.dtype))).sample
        return images.clamp(-1, 1)

    return decode
