"""The CLIP energy that EGLOCE descends: repulsion from a concept's texts, retention of the prompt or of a picture.

Differentiable from decoded pictures to the scalar of each case. The network is never one that scores (house rule 4;
`audit.plan.preflight.clip_models` refuses it), and its own tokenizer reads the texts.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from audit.files import Document
from audit.instruments.differentiable_clip import DifferentiableClip, load_parts, unit
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

_WHOLE = 1e-2  # what is left of a unit vector below this norm points nowhere in particular
JPEG_QUALITY = 90
FLIP_MARGIN = 0.05  # cosine; a smaller return is within what compression does to any picture. This project's own choice


class Energy(DifferentiableClip):
    """CLIP similarities of pictures to a concept's phrases, each embedded in all `templates`."""

    def __init__(
        self,
        network: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Document,
        templates: Sequence[str],
        phrases: Sequence[str],
    ) -> None:
        super().__init__(network, tokenizer, settings)
        self.concepts = self.directions(templates, phrases)  # f_k, one row per phrase

    def prompt(self, text: str) -> torch.Tensor | None:
        """Return f_p' (D,), the prompt's direction without the concept's; None when nothing of the prompt is left.

        Words that this model's tokenizer does not know, such as learned tokens, are left out.
        """
        words = [word for word in text.split() if self._known(word)]
        if not words:
            return None
        return self.without_concept(self.texts([" ".join(words)])[0])

    def _known(self, word: str) -> bool:
        ids = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        return bool(ids) and self._tokenizer.unk_token_id not in ids and not word.startswith("<")

    def without_concept(self, direction: torch.Tensor) -> torch.Tensor | None:
        """Remove the concept's directions from a unit direction (D,); None when nothing of it is left."""
        basis = torch.linalg.qr(self.concepts.T)[0]
        left = direction - basis @ (basis.T @ direction)
        return unit(left) if float(left.norm()) > _WHOLE else None

    def repulsion(self, features: torch.Tensor) -> torch.Tensor:
        """Return E_rep (B,), the mean cosine to the concept's phrases, in [-1, 1]; smaller is farther from the concept."""
        return (features @ self.concepts.T).mean(1)


@dataclasses.dataclass(frozen=True)
class Flip:
    """E_rep of a picture as it is, after JPEG and after a one-pixel blur, which an adversarial picture does not survive."""

    plain: float
    jpeg: float
    blurred: float

    @property
    def regained(self) -> float:
        """The larger gain of similarity to the concept, after JPEG or after the blur."""
        return max(self.jpeg, self.blurred) - self.plain

    def flipped(self, highest: float) -> bool:
        """Return whether the similarity to the concept was only hidden.

        That is so when more than `FLIP_MARGIN` of it comes back, and more than half of what was lost since `highest`, the most
        that the case had before any step of the guard. Early estimates are blurred and may stand below the finished picture;
        then nothing was lost, and the margin alone decides.
        """
        return self.regained > FLIP_MARGIN and self.regained > (highest - self.plain) / 2


@torch.no_grad()
def flip_test(energy: Energy, images: torch.Tensor) -> list[Flip]:
    """Return the energy of each picture (B, 3, H, W) in [-1, 1] before and after changes that nobody would see."""
    rounded = ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round() / 127.5 - 1
    versions = (rounded, jpeg(rounded, JPEG_QUALITY), blur(rounded))
    values = [energy.repulsion(energy.images(version.to(images.device))).tolist() for version in versions]
    return [Flip(*row) for row in zip(*values, strict=True)]


def jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1] after JPEG compression."""
    compressed = []
    for image in ((images / 2 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        compressed.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(compressed).to(images.device)


def blur(images: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, 3, H, W) after a Gaussian blur with a standard deviation of one pixel, edges repeated."""
    axis = torch.arange(-3, 4, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(axis**2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 7, 1).expand(3, 1, 7, 1), groups=3)
    return F.conv2d(rows, kernel.view(1, 1, 1, 7).expand(3, 1, 1, 7), groups=3)


@functools.lru_cache(maxsize=2)
def load_energy(ref: ModelRef, device: str, templates: tuple[str, ...], phrases: tuple[str, ...]) -> Energy:
    """Load the energy of a CLIPModel folder. Raises `DetectorError` when it cannot be loaded whole."""
    return Energy(*load_parts(ref, device), templates, phrases)
