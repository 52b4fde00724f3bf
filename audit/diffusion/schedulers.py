"""Samplers of production: the denoising loop's steps taken by diffusers' own scheduler classes.

A scheduler holds the state of one trajectory, so there is a new one for each batch. Its latents stay in its own
convention, and the UNet and the guards see what its `scale_model_input` gives: x / sqrt(1 + sigma^2) for those that work in
sigmas (Karras et al. 2022, arXiv 2206.00364), x itself for the others, which is variance-preserving either way.

Where a class draws noise it draws each case's from that case's own generator, the one that drew its initial noise, as
diffusers' pipelines do with one generator for each picture. So a picture does not depend on its batch.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import torch

from audit.diffusion.guard import Step
from audit.diffusion.levels import Level
from audit.diffusion.sampling import begun_generator
from audit.errors import CheckpointError
from audit.weights.schedulers import Chosen, Kind

# Classes of which each step follows from its latents and prediction alone. The others keep earlier predictions or stages.
_MEMORYLESS = (
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"
)  # fmt: skip


def make_scheduler(chosen: Chosen, kind: Kind = "epsilon") -> Any:
    """Return a new scheduler of diffusers with the settings that its class knows, for a network that predicts `kind`.

    Raises `CheckpointError` for settings that the class refuses.
    """
    loader = getattr(diffusers, chosen.named)
    known = inspect.signature(loader.__init__).parameters
    meant = {**chosen.settings, "prediction_type": kind}
    settings = {name: value for name, value in meant.items() if name in known}
    with _refused(chosen):
        return loader.from_config(settings)


class DiffusersSolver:
    """A solver of the loop around a new scheduler, for the cases that `seeds` name, from latents of `shape` (C, H, W)."""

    def __init__(
        self, chosen: Chosen, steps: int, seeds: Sequence[int] = (), shape: Sequence[int] = (), kind: Kind = "epsilon"
    ) -> None:
        self._scheduler = make_scheduler(chosen, kind)
        with _refused(chosen, steps):
            self._scheduler.set_timesteps(steps)
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(0)  # two equal timesteps at the start would otherwise be taken for one
        self._times: torch.Tensor = self._scheduler.timesteps
        self.remembers = chosen.named not in _MEMORYLESS
        self.grid = _grid(self._scheduler, kind)
        self._draws: dict[str, object] = {}
        if "generator" in inspect.signature(self._scheduler.step).parameters:
            self._draws["generator"] = [begun_generator(seed, shape) for seed in seeds]

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Return noise (B, C, H, W) of the standard deviation that the scheduler begins with."""
        return noise * self._scheduler.init_noise_sigma

    def time(self, step: Step) -> torch.Tensor:
        """Return the scheduler's own timestep, which need not be whole."""
        return self._times[step.index]

    def visible(self, latents: torch.Tensor, index: int) -> torch.Tensor:
        """Return latents before step `index` as the UNet takes them; those after the last step are left as they are."""
        if index == len(self._times):
            return latents
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self._times[index])
        return scaled

    def own(self, visible: torch.Tensor, index: int) -> torch.Tensor:
        """Return what the scheduler would make `visible` of: `scale_model_input` multiplies by a number."""
        return visible / self.visible(torch.ones((), device=visible.device), index)

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents after the scheduler's step."""
        moved: tuple[torch.Tensor, ...] = self._scheduler.step(
            prediction, self._times[index], latents, **self._draws, return_dict=False
        )
        return moved[0]


def _grid(scheduler: Any, kind: Kind) -> tuple[Step, ...]:
    """Return the scheduler's evaluations with the noise levels (alpha-bar) before and after each."""
    times = scheduler.timesteps
    if hasattr(scheduler, "sigmas"):
        levels = [float(1 / (1 + sigma.double() ** 2)) for sigma in scheduler.sigmas]
    else:
        last = getattr(scheduler, "final_alpha_cumprod", None)
        levels = [float(scheduler.alphas_cumprod[t].double()) for t in times]
        levels.append(1.0 if last is None else float(last))
    pairs = itertools.pairwise(Level.of(level) for level in levels)
    return tuple(Step(i, round(float(t)), *pair, kind) for i, (t, pair) in enumerate(zip(times, pairs, strict=True)))


def timesteps(chosen: Chosen, steps: int) -> tuple[int, ...]:
    """Return the training timestep of each evaluation, noisiest first; some schedulers evaluate more often than `steps`.

    Raises `CheckpointError` when the class refuses its settings, or to take so many steps.
    """
    return _timesteps(chosen.named, json.dumps(dict(chosen.settings), sort_keys=True), steps)


@functools.lru_cache(maxsize=256)
def _timesteps(named: str, settings: str, steps: int) -> tuple[int, ...]:
    return tuple(int(step.timestep) for step in DiffusersSolver(Chosen(named, json.loads(settings)), steps).grid)


def remembers(chosen: Chosen) -> bool:
    """Return whether the scheduler's steps build on earlier ones."""
    return chosen.named not in _MEMORYLESS


@contextlib.contextmanager
def _refused(chosen: Chosen, steps: int | None = None) -> Iterator[None]:
    """Turn whatever a scheduler's class raises about its settings, or about its steps, into a `CheckpointError`."""
    try:
        yield
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        what = "its settings" if steps is None else f"{steps} steps"
        raise CheckpointError(
            f"the scheduler {chosen.named} cannot take {what}: {' '.join(str(error).split())[:300]}",
            where="scheduler/scheduler_config.json",
            next_step="change sampler.steps, or name another sampler.scheduler",
        ) from error
