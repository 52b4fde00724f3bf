"""The grids of the deterministic samplers, from a pipeline's scheduler settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from audit.diffusion.levels import Level, step_factors
from audit.diffusion.sampling import Schedule
from audit.errors import CheckpointError
from audit.weights.schedulers import Kind, is_flow, prediction_kind

# What changes DDIM's grid or levels. A pipeline folder whose scheduler differs in these is another sampler.
_GRID_FIELDS = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "steps_offset", "set_alpha_to_one")


def make_schedule(config: Mapping[str, object], steps: int) -> Schedule:
    """Return DDIM coefficients in float64 for a diffusers scheduler config on the 'leading' grid.

    Raises `CheckpointError` for a kind of prediction that is not known or when `steps` does not divide the training timesteps.
    """
    kind = prediction_kind(config)
    grid = {name: config[name] for name in _GRID_FIELDS if name in config}
    scheduler = DDIMScheduler(**grid, clip_sample=False, timestep_spacing="leading")
    total = int(scheduler.config["num_train_timesteps"])
    if steps < 1 or total % steps:
        raise CheckpointError(f"{steps} steps do not divide {total} training timesteps", next_step="use 10, 20, 25, 50")
    scheduler.set_timesteps(steps)
    timesteps = tuple(int(t) for t in reversed(scheduler.timesteps.tolist()))
    shares = scheduler.alphas_cumprod.double()
    abar = (float(scheduler.final_alpha_cumprod), *(float(shares[t]) for t in timesteps))
    levels = tuple(Level.of(share) for share in abar)
    if kind == "epsilon":  # in this order of operations, by which earlier runs were sampled
        a = tuple((abar[i - 1] / abar[i]) ** 0.5 for i in range(1, steps + 1))
        b = tuple((1 - abar[i - 1]) ** 0.5 - a[i - 1] * (1 - abar[i]) ** 0.5 for i in range(1, steps + 1))
    else:
        a, b = _factors(kind, levels)
    return Schedule(timesteps, levels, a, b, kind)


def make_flow_schedule(config: Mapping[str, object], steps: int, tokens: int, *, linear: bool) -> Schedule:
    """Return the steps of the flow's Euler sampler as diffusers' pipelines set them for a picture of `tokens` image tokens.

    With `linear`, noise levels fall evenly from 1 to 1 / steps before they are shifted, as FluxPipeline has it; otherwise the
    scheduler's own range is used, as StableDiffusion3Pipeline does.
    """
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    given: dict[str, object] = {}
    if scheduler.config["use_dynamic_shifting"]:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        given["mu"] = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    if linear and not scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **given)
    else:
        scheduler.set_timesteps(steps, **given)
    sigmas = [float(sigma) for sigma in reversed(scheduler.sigmas.double().tolist())]
    levels = tuple(Level(1 - sigma, sigma) for sigma in sigmas)
    timesteps = tuple(float(t) for t in reversed(scheduler.timesteps.tolist()))
    return Schedule(timesteps, levels, *_factors("flow", levels), "flow")


def training_levels(config: Mapping[str, object]) -> torch.Tensor:
    """Return the factors of signal and noise (T, 2) at every training timestep, in float32."""
    if is_flow(config):
        noise = torch.arange(int(str(config.get("num_train_timesteps", 1000)))) / 1000
        return torch.stack([1 - noise, noise], 1)
    names = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    abar = DDIMScheduler(**{name: config[name] for name in names if name in config}).alphas_cumprod.float()
    return torch.stack([abar.sqrt(), (1 - abar).sqrt()], 1)


def _factors(kind: Kind, levels: tuple[Level, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    factors = [step_factors(kind, above, below) for below, above in itertools.pairwise(levels)]
    return tuple(a for a, _ in factors), tuple(b for _, b in factors)
