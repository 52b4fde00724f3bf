"""What a guard may touch during denoising, and how it proves that it acted."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """Text conditioning of one batch.

    `prompt` and `null` are text-encoder states of shape (B, L, D). With `guidance` 1 only `prompt` is evaluated:
    the unconditional pass would be multiplied by zero.
    """

    prompt: torch.Tensor
    null: torch.Tensor
    guidance: float
    texts: tuple[str, ...]  # what the user typed, one per case; "" is the null prompt


@dataclasses.dataclass(frozen=True)
class Step:
    """Where the loop stands: `index` counts from 0 (noisiest), `timestep` is the training timestep, `abar` is alpha-bar."""

    index: int
    timestep: int
    abar: float
    abar_next: float


class Guard:
    """A guard that does nothing; concrete guards override the hooks they need.

    Hooks run in this order at each step: `before_step`, the UNet, `guide`, the DDIM update, `after_step`. A guard sees a
    whole batch but must treat its rows independently, so that a case's picture does not depend on its neighbours.
    """

    name = "identity"
    version = "1"

    def condition(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning to denoise with; called once per batch, before the first step."""
        return conditioning

    def before_step(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """Latents (B, C, H, W) to hand to the UNet at this step."""
        return latents

    def guide(self, noise: torch.Tensor, prompt: torch.Tensor, null: torch.Tensor | None, step: Step) -> torch.Tensor:
        """Noise prediction (B, C, H, W) to step with, from the combined one and its two parts."""
        return noise

    def after_step(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """Latents (B, C, H, W) to carry into the next step."""
        return latents

    def report(self) -> list[dict[str, Any]]:
        """Per case of the last batch: where and how often the guard acted."""
        return []
