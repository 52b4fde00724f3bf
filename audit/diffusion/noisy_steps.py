"""Sampling with fresh noise after each step, as noise-based probing of erased models does.

Lu et al. 2025, "When Are Concepts Erased From Diffusion Models?", arXiv 2505.17013. With a and s the factors of signal and noise
at a level, above (t) and below (t - 1) a step, sigma_t is the standard deviation of DDPM's posterior (DDIM, arXiv 2010.02502,
eq. 16 with eta = 1), here for levels of any kind:

    sigma_t^2 = (s_{t-1} / s_t)^2 (s_t^2 - (a_t / a_{t-1})^2 s_{t-1}^2)

    ddim     x_{t-1} = a_{t-1} x0 + sqrt(max(0, s_{t-1}^2 - (eta sigma_t)^2)) eps + k eta sigma_t z         (eq. 12)
    added    x_{t-1} = a_{t-1} x0 + s_{t-1} eps + k eta sigma_t z

x0 and eps are what the prediction means, z is Gaussian. The paper's code changes DDIM by an eta above 1 and by a scale of the
variance, which k stands for; `added` is the deterministic step with the noise on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from audit.diffusion.guard import Step
from audit.diffusion.levels import Level, clean_of, noise_of
from audit.diffusion.sampling import Memoryless, Schedule, begun_generator

Form = Literal["ddim", "added"]


def posterior_deviation(above: Level, below: Level) -> float:
    """Return sigma_t of the step from a level to the one below it; 0 at the clean end."""
    variance = above.noise**2 - (above.signal / below.signal * below.noise) ** 2
    return below.noise / above.noise * math.sqrt(max(0.0, variance))


class NoisySteps(Memoryless):
    """A solver that takes the steps of `schedule` with noise, each case's from a generator of its own.

    The generators of `seeds` go on from the cases' initial noise of `shape` (C, H, W), so a picture does not depend on
    its batch. A solver serves one trajectory.
    """

    def __init__(
        self, schedule: Schedule, eta: float, form: Form, noise_scale: float, seeds: Sequence[int], shape: Sequence[int]
    ) -> None:
        self.schedule, self.eta, self.form, self.noise_scale = schedule, eta, form, noise_scale
        self._generators = [begun_generator(seed, shape) for seed in seeds]

    @property
    def grid(self) -> Sequence[Step]:
        """Return the steps of denoising, noisiest first."""
        return self.schedule.grid

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents after step `index` with its noise."""
        step = self.schedule.step(self.schedule.steps - 1 - index)
        sigma = self.eta * posterior_deviation(step.level, step.below)
        clean = clean_of(step.kind, step.level, latents, prediction)
        noise = noise_of(step.kind, step.level, latents, prediction)
        kept = step.below.noise if self.form == "added" else math.sqrt(max(0.0, step.below.noise**2 - sigma**2))
        drawn = torch.stack([torch.randn(latents.shape[1:], generator=one) for one in self._generators])
        moved = step.below.signal * clean + kept * noise
        return moved + self.noise_scale * sigma * drawn.to(latents.device)
