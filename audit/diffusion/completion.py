"""Complete pictures of which a part is given, with a network that was not trained to: the given part is put back at each step.

As in blended latent diffusion (Avrahami et al. 2023, arXiv 2206.02779) and RePaint without its resampling (Lugmayr et al.
2022, arXiv 2201.09865): after each step the known region is replaced by the picture's own latents at that noise level, with
one noise for all levels as in diffusers' inpainting pipelines, and clean at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch

from audit.diffusion.guard import Step
from audit.diffusion.sampling import Memoryless, Schedule

Known = Literal["half", "centre"]


def known_region(known: Known, height: int, width: int) -> torch.Tensor:
    """Return which latents (1, 1, height, width) are given: the left half, or the middle one of half the side."""
    region = torch.zeros(1, 1, height, width, dtype=torch.bool)
    match known:
        case "half":
            region[..., : width // 2] = True
        case "centre":
            region[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return region


@dataclasses.dataclass(frozen=True)
class Completion(Memoryless):
    """A solver that denoises by `schedule` and holds the `known` region at clean latents `clean`, noised by `noise`."""

    schedule: Schedule
    clean: torch.Tensor
    noise: torch.Tensor
    known: torch.Tensor

    @property
    def grid(self) -> Sequence[Step]:
        """Return the steps of denoising, noisiest first."""
        return self.schedule.grid

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents after step `index`, the known region as it is at that level."""
        moved, below = self.schedule.move(latents, prediction, index), self.schedule.steps - 1 - index
        given = self.schedule.levels[below].noised(self.clean, self.noise) if below else self.clean
        return torch.where(self.known, given, moved)
