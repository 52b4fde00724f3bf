"""Samplers that invert exactly, by algebra: BDIA (arXiv 2307.10829) and O-BELM (arXiv 2410.07273) on DDIM's grid.

Both are linear in three neighbouring levels, x_{i-1} = A_i x_{i+1} + B_i x_i + C_i eps(x_i, t_i), so the same noise
prediction leads back: x_{i+1} = (x_{i-1} - B_i x_i - C_i eps(x_i, t_i)) / A_i. The state is a pair of latents, and both
are needed: with the noisiest alone the trip is no longer exact.

They are other samplers than DDIM. Their latents bound what an inversion can carry; they are no DDIM latents.
"""

from __future__ import annotations

import dataclasses

import torch

from audit.diffusion.guard import Conditioning
from audit.diffusion.sampling import NoiseModel, Predictor, Sampled, Schedule

NAME = "exact-samplers"
VERSION = "1"
METHODS = ("bdia", "o-belm")
_GAMMA = 1.0  # BDIA divides by it on the way up: below 1 errors grow without bound


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The coefficients A, B, C for i = 1..N-1, at index i - 1."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """The state of an exact sampler: latents (B, C, H, W) at the noisiest level and at the one below it."""

    noisiest: torch.Tensor
    second: torch.Tensor


def coefficients(schedule: Schedule, method: str) -> Coefficients:
    """Return the coefficients of `method` on a schedule of at least two steps. Raises ValueError for others."""
    if method not in METHODS or schedule.steps < 2:
        raise ValueError(f"no exact sampler {method!r} with {schedule.steps} steps")
    if schedule.kind != "epsilon":
        raise ValueError(f"the exact samplers step with predicted noise, and this network predicts {schedule.kind}")
    alpha = [level.signal for level in schedule.levels]
    sigma = [level.noise for level in schedule.levels]
    compute = _bdia if method == "bdia" else _o_belm
    rows = [compute(alpha, sigma, i) for i in range(1, schedule.steps)]
    return Coefficients(*(tuple(column) for column in zip(*rows, strict=True)))


def _bdia(alpha: list[float], sigma: list[float], i: int) -> tuple[float, float, float]:
    """Return A, B, C of x_{i-1} = gamma x_{i+1} + D(i -> i-1) - gamma D(i -> i+1), where D is DDIM's move from x_i."""
    down, up = alpha[i - 1] / alpha[i], alpha[i + 1] / alpha[i]
    noise_down, noise_up = sigma[i - 1] - sigma[i] * down, sigma[i + 1] - sigma[i] * up
    return _GAMMA, down - _GAMMA * up, noise_down - _GAMMA * noise_up


def _o_belm(alpha: list[float], sigma: list[float], i: int) -> tuple[float, float, float]:
    """Return A, B, C of the variable-step formula with the smallest local error.

    Steps are h_i = sigma_i / alpha_i - sigma_{i-1} / alpha_{i-1}.
    """
    h, above = (sigma[k] / alpha[k] - sigma[k - 1] / alpha[k - 1] for k in (i, i + 1))
    ratio = (h / above) ** 2
    return (
        ratio * alpha[i - 1] / alpha[i + 1],
        (1 - ratio) * alpha[i - 1] / alpha[i],
        -h * (h + above) / above * alpha[i - 1],
    )


@torch.no_grad()
def invert_exactly(
    model: NoiseModel, schedule: Schedule, clean: torch.Tensor, states: torch.Tensor, method: str
) -> Pair:
    """Return the pair from which `sample_exactly` gives `clean` (B, C, H, W) back, in float64; N evaluations an image.

    `states` (B, L, D) condition it, at guidance 1. The first level is left by an explicit DDIM step; the way back never
    needs that one.
    """
    steps = coefficients(schedule, method)
    below = _wide(clean)
    noise = model(below.float(), schedule.timesteps[0], states).to(below.dtype)
    here = (below - schedule.b[0] * noise) / schedule.a[0]
    for a, b, c, timestep in zip(steps.a, steps.b, steps.c, schedule.timesteps, strict=False):
        noise = model(here.float(), timestep, states).to(here.dtype)
        below, here = here, (below - b * here - c * noise) / a
    return Pair(here, below)


@torch.no_grad()
def sample_exactly(
    model: NoiseModel, schedule: Schedule, pair: Pair, conditioning: Conditioning, method: str
) -> Sampled:
    """Denoise a pair to the clean end, latents (B, C, H, W), by N - 1 steps; guards cannot act on pairs."""
    steps = coefficients(schedule, method)
    above, here = _wide(pair.noisiest), _wide(pair.second)
    calls = 0
    for i in reversed(range(schedule.steps - 1)):
        prediction = Predictor(model, schedule.timesteps[i], conditioning)(here.float())
        calls += prediction.calls
        noise = prediction.guided.to(here.dtype)
        above, here = here, steps.a[i] * above + steps.b[i] * here + steps.c[i] * noise
    return Sampled(here.float(), calls, ((),) * len(here))


def _wide(latents: torch.Tensor) -> torch.Tensor:
    # The recurrences carry rounding on undamped; Apple's devices have no float64.
    return latents.float() if latents.device.type == "mps" else latents.double()
