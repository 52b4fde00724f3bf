"""DDIM inversion: the latent from which a model's deterministic sampler reproduces a given image.

The exact inverse of a DDIM step is implicit, x_i = (x_{i-1} - b_i eps(x_i, t_i)) / a_i, and is solved by fixed-point
iteration with Anderson acceleration of depth 1 (AIDI, arXiv 2309.04907; the plain iteration converges at the rate
|b_i / a_i| Lip(eps), which is poor at the second level, where the noise grows fivefold in one step). The iteration starts
from the noise extrapolated over the two previous levels instead of a further evaluation, and stops per image: images that
have converged leave the batch, so easy steps cost one or two evaluations.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from audit.diffusion.sampling import NoiseModel, Schedule

NAME = "ddim-inversion"
VERSION = "2"


@dataclasses.dataclass(frozen=True)
class Inverted:
    """Inverted latents (B, C, H, W) at the noisiest level, with per-image evidence of how exact they are.

    `residual_*` is ||x_i - g(x_i)|| / ||x_i|| of the implicit equation, measured at the returned iterate itself, over the
    steps; infinite where nothing finite was measured. `calls` counts UNet evaluations per image.
    """

    latents: torch.Tensor
    residual_max: torch.Tensor
    residual_mean: torch.Tensor
    calls: torch.Tensor


@torch.no_grad()
def invert(
    model: NoiseModel, schedule: Schedule, clean: torch.Tensor, states: torch.Tensor, *, passes: int, tolerance: float
) -> Inverted:
    """Return latents whose deterministic denoising by `model` under `states` (B, L, D) gives `clean` (B, C, H, W).

    `passes` is the most evaluations of the implicit equation per step; 0 is the plain explicit inversion that evaluates
    eps(x_{i-1}, t_i), and once more to know its residual. Each image keeps the iterate with its smallest residual.
    """
    x = clean.float()
    batch = len(x)
    worst, total = torch.zeros(batch, device=x.device), torch.zeros(batch, device=x.device)
    calls = torch.zeros(batch, dtype=torch.int32, device=x.device)
    noise_before: torch.Tensor | None = None
    noise_earlier: torch.Tensor | None = None
    for i, timestep in enumerate(schedule.timesteps):
        if noise_before is None or passes == 0:
            guess = model(x, timestep, states).float()
            calls += 1
        else:
            guess = noise_before if noise_earlier is None else 2 * noise_before - noise_earlier
        solver = _Step(model, x, timestep, states, schedule.a[i], schedule.b[i])
        x, noise, residual, evaluations = solver.solve(guess, passes, tolerance)
        noise_earlier, noise_before = noise_before, noise
        worst, total, calls = torch.maximum(worst, residual), total + residual, calls + evaluations
    return Inverted(x, worst, total / schedule.steps, calls)


@dataclasses.dataclass(frozen=True)
class _Step:
    """One implicit step: solve x = (previous - b eps(x, t)) / a for a whole batch."""

    model: NoiseModel
    previous: torch.Tensor
    timestep: float
    states: torch.Tensor
    a: float
    b: float

    def solve(
        self, guess: torch.Tensor, passes: int, tolerance: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the best measured iterate, its noise prediction, its residual (B,) and the number of evaluations (B,)."""
        x = (self.previous - self.b * guess) / self.a
        best_x, best_noise = x.clone(), guess.clone()
        best = torch.full((len(x),), torch.inf, device=x.device)
        evaluations = torch.zeros(len(x), dtype=torch.int32, device=x.device)
        last_gap, last_image = torch.zeros_like(x), torch.zeros_like(x)
        active = torch.arange(len(x), device=x.device)
        for count in range(max(passes, 1)):
            current = x[active]
            noise = self.model(current, self.timestep, self.states[active]).float()
            evaluations[active] += 1
            image = (self.previous[active] - self.b * noise) / self.a
            gap = image - current
            residual = gap.flatten(1).norm(dim=1) / current.flatten(1).norm(dim=1)
            better = residual < best[active]  # NaN compares false: it never becomes the best
            rows = active[better]
            best_x[rows], best_noise[rows], best[rows] = current[better], noise[better], residual[better]
            following = image
            if count > 0:
                following = image - _mixing(gap, last_gap[active]) * (image - last_image[active])
            x[active], last_gap[active], last_image[active] = following, gap, image
            active = active[torch.isfinite(residual) & (residual >= tolerance)]
            if len(active) == 0:
                break
        return best_x, best_noise, best, evaluations


def _mixing(gap: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return Anderson's coefficient of depth 1 for each image, (B, 1, 1, 1): the least-squares zero of the linearised gap."""
    change = gap - before
    square = change.pow(2).sum((1, 2, 3), keepdim=True)
    return (gap * change).sum((1, 2, 3), keepdim=True) / square.clamp_min(1e-30)


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Gaussianity of inverted latents, per image (B,): under N(0, I) rms is 1, autocorrelation 0, nll 1.419 nats."""

    rms: torch.Tensor
    autocorrelation: torch.Tensor  # lag 1, mean of both axes
    nll_per_dim: torch.Tensor  # negative log-likelihood under N(0, I), nats per dimension


def latent_statistics(latents: torch.Tensor) -> LatentStatistics:
    """Return how Gaussian latents (B, C, H, W) are."""
    flat = latents.flatten(1)
    square = flat.pow(2).mean(1)
    centred = latents - latents.mean((2, 3), keepdim=True)
    power = centred.pow(2).mean((1, 2, 3)).clamp_min(1e-12)
    rows = (centred[:, :, 1:] * centred[:, :, :-1]).mean((1, 2, 3))
    columns = (centred[:, :, :, 1:] * centred[:, :, :, :-1]).mean((1, 2, 3))
    return LatentStatistics(square.sqrt(), (rows + columns) / 2 / power, 0.5 * (square + math.log(2 * math.pi)))
