"""Noise levels, and what a network's prediction says about the clean picture and the noise.

A noisy latent is x = signal * clean + noise * xi with Gaussian xi. What a network predicts there is one of three kinds:

  epsilon        xi                              Ho et al. 2020, arXiv 2006.11239
  v_prediction   signal * xi - noise * clean     Salimans and Ho 2022, arXiv 2202.00512; signal^2 + noise^2 = 1
  flow           xi - clean                      rectified flow, Liu et al. 2022, arXiv 2209.03003; signal + noise = 1
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch

from audit.weights.schedulers import Kind

Number = TypeVar("Number", float, torch.Tensor)


@dataclasses.dataclass(frozen=True)
class Level:
    """A noise level: the factors of the clean latent and of the noise."""

    signal: float
    noise: float

    @classmethod
    def of(cls, abar: float) -> Level:
        """Return the level of a diffusion that keeps the variance, by the signal's share alpha-bar of it."""
        return cls(abar**0.5, (1 - abar) ** 0.5)

    def noised(self, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the noisy latents of clean ones."""
        return self.signal * clean + self.noise * noise


def clean_of(kind: Kind, level: Level, latents: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the clean latents that a prediction at noisy `latents` means."""
    match kind:
        case "epsilon":
            return (latents - level.noise * prediction) / level.signal
        case "v_prediction":
            return level.signal * latents - level.noise * prediction
        case "flow":
            return latents - level.noise * prediction


def noise_of(kind: Kind, level: Level, latents: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the noise that a prediction at noisy `latents` means."""
    match kind:
        case "epsilon":
            return prediction
        case "v_prediction":
            return level.signal * prediction + level.noise * latents
        case "flow":
            return latents + level.signal * prediction


def target_of(
    kind: Kind, signal: Number, noise_level: Number, clean: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Return what a network of this kind learns to predict, from clean latents and noise at a level or at one for each row."""
    match kind:
        case "epsilon":
            return noise
        case "v_prediction":
            return signal * noise - noise_level * clean
        case "flow":
            return noise - clean


def step_factors(kind: Kind, above: Level, below: Level) -> tuple[float, float]:
    """Return a and b of the deterministic step x' = a x + b prediction from a level to the one below it.

    For epsilon and v_prediction it is DDIM's (eta 0), for flow Euler's: both hold the clean latent and the noise fixed.
    """
    match kind:
        case "epsilon":
            a = below.signal / above.signal
            return a, below.noise - a * above.noise
        case "v_prediction":
            return (
                below.signal * above.signal + below.noise * above.noise,
                below.noise * above.signal - below.signal * above.noise,
            )
        case "flow":
            return 1.0, below.noise - above.noise
