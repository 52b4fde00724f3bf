"""The one denoising loop, and its deterministic steps: DDIM's (Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0) for a
diffusion, Euler's for a flow.

All scenarios sample through `sample`: text prompts, inverted latents and random latents differ only in what they start
from, what they are conditioned on and which solver takes the steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import torch

from audit.diffusion.guard import Conditioning, Guard, Prediction, Report, Step
from audit.diffusion.levels import Level
from audit.weights.schedulers import Kind

# Latents (B, C, h, w), their timestep or timesteps (B,) and text states to what the network predicts (`levels.Kind`).
NoiseModel = Callable[[torch.Tensor, float | torch.Tensor, torch.Tensor], torch.Tensor]


class Solver(Protocol):
    """The grid that a trajectory runs on, and the steps between its levels.

    A solver keeps its latents as it likes; the network and the guards see them as the network takes them.
    """

    @property
    def grid(self) -> Sequence[Step]:
        """Return the evaluations of a trajectory, noisiest first."""

    @property
    def remembers(self) -> bool:
        """Return whether a step builds on earlier ones, so that guards must not change the latents between them."""

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the first latents of this solver, from standard normal noise (B, C, H, W)."""

    def time(self, step: Step) -> float | torch.Tensor:
        """Return the timestep for the UNet, which need not be a whole number."""

    def visible(self, latents: torch.Tensor, index: int) -> torch.Tensor:
        """Return the variance-preserving form of the solver's latents before step `index`, which the UNet takes."""

    def own(self, visible: torch.Tensor, index: int) -> torch.Tensor:
        """Return the solver's form of variance-preserving latents; the inverse of `visible`."""

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, index: int) -> torch.Tensor:
        """Return the solver's latents after step `index` along the network's prediction."""


class Memoryless:
    """What solvers share whose latents are the network's own and whose steps follow from their latents alone."""

    @property
    def remembers(self) -> bool:
        """Return False: each step follows from its latents alone."""
        return False

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the noise itself, or inverted latents as they are."""
        return noise

    def time(self, step: Step) -> float:
        """Return the step's timestep."""
        return step.timestep

    def visible(self, latents: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents, which are the network's own."""
        return latents

    def own(self, visible: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents as they are."""
        return visible


@dataclasses.dataclass(frozen=True)
class Schedule(Memoryless):
    """The deterministic sampler's N steps, ascending in noise: entry i of `a`, `b`, `timesteps` moves level i <-> i + 1.

    `levels[0]` is the clean end (`alphas_cumprod[0]` for SD v1.4, not quite clean) and `levels[N]` the noisiest level.
    x_{i-1} = a_i x_i + b_i m(x_i, t_i), m what the network predicts, so the exact inverse solves
    x_i = (x_{i-1} - b_i m(x_i, t_i)) / a_i.
    """

    timesteps: tuple[float, ...]
    levels: tuple[Level, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    kind: Kind = "epsilon"

    @property
    def steps(self) -> int:
        """The number of denoising steps N."""
        return len(self.timesteps)

    def step(self, i: int) -> Step:
        """Return the step from level i + 1 to level i."""
        return Step(self.steps - 1 - i, self.timesteps[i], self.levels[i + 1], self.levels[i], self.kind)

    def last(self, steps: int) -> Schedule:
        """Return the schedule of the last steps alone, which begins at their own noisiest level."""
        return Schedule(self.timesteps[:steps], self.levels[: steps + 1], self.a[:steps], self.b[:steps], self.kind)

    @property
    def grid(self) -> tuple[Step, ...]:
        """Return the steps of denoising, noisiest first."""
        return tuple(self.step(i) for i in reversed(range(self.steps)))

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, index: int) -> torch.Tensor:
        """Return the latents after step `index`, counted from the noisiest."""
        i = self.steps - 1 - index
        return self.a[i] * latents + self.b[i] * prediction


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Denoised latents (B, C, H, W), the trajectory's UNet evaluations per case, and each case's reports in guard order.

    `passed` holds the latents on the way, by step, where they were asked for.
    """

    latents: torch.Tensor
    unet_calls: int
    reports: tuple[tuple[Report, ...], ...]
    passed: Mapping[int, torch.Tensor] = dataclasses.field(default_factory=dict)


@torch.no_grad()
def sample(
    model: NoiseModel,
    solver: Solver,
    latents: torch.Tensor,
    conditioning: Conditioning,
    guards: Sequence[Guard] = (),
    *,
    begun: int = 0,
    keep: Collection[int] = (),
) -> Sampled:
    """Denoise latents (B, C, H, W) from the noisiest level to the clean end.

    With `begun`, `latents` are those before that step of a trajectory that was begun without guards; its evaluations count.
    The latents before each step in `keep` are returned too. Only a solver that remembers nothing can be begun.

    `model(latents, timestep, states)` returns the noise prediction. With guidance 1 one evaluation a step is made,
    otherwise two, and one more for each guard with a branch of its own, all in one batch. The update runs in float32
    whatever the model's dtype. Raises ValueError for a guard that changes latents between the steps of a solver that
    remembers earlier ones.
    """
    calls = begun * (1 if conditioning.guidance == 1.0 else 2)
    latents, passed = latents.float(), dict[int, torch.Tensor]()
    latents = latents if begun else solver.start(latents)
    grid = solver.grid
    for guard in guards:
        guard.begin(conditioning, [step.timestep for step in grid])
    for step in grid[begun:]:
        if step.index in keep:
            passed[step.index] = latents
        given = conditioning
        for guard in guards:
            given = guard.condition(given, step)
        predict = Predictor(model, solver.time(step), given)
        seen = visible = solver.visible(latents, step.index)
        for guard in guards:
            visible = guard.before_step(visible, step, predict)
        latents = _changed(solver, latents, seen, visible, step.index)
        prediction = predict(visible, guards)
        calls += prediction.calls
        noise = prediction.guided
        for guard in guards:
            noise = guard.guide(noise, prediction, step)
        latents = solver.move(latents, noise, step.index)
        if guards:
            latents = _after(solver, latents, guards, step)
    for guard in guards:
        guard.finish(latents)
    return Sampled(latents, calls, _reports(guards, len(latents)), passed)


def _after(solver: Solver, latents: torch.Tensor, guards: Sequence[Guard], step: Step) -> torch.Tensor:
    seen = visible = solver.visible(latents, step.index + 1)
    for guard in guards:
        visible = guard.after_step(visible, step)
    return _changed(solver, latents, seen, visible, step.index + 1)


def _changed(
    solver: Solver, latents: torch.Tensor, seen: torch.Tensor, visible: torch.Tensor, index: int
) -> torch.Tensor:
    """Return the solver's latents, made anew where guards have given back others than they saw."""
    if visible is seen:
        return latents
    if solver.remembers:
        raise ValueError("a guard changed the latents, and the scheduler goes on from predictions before that change")
    return solver.own(visible, index)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """The model's noise predictions at one step."""

    model: NoiseModel
    timestep: float | torch.Tensor
    given: Conditioning

    def __call__(self, latents: torch.Tensor, guards: Sequence[Guard] = ()) -> Prediction:
        """Return the prediction at `latents`; the branches of `guards` are evaluated with it."""
        branches = {guard.name: own for guard in guards if (own := guard.branch()) is not None}
        states = [self.given.prompt, *branches.values()]
        if self.given.guidance != 1.0:
            states.insert(0, self.given.null)
        count = len(states)
        inputs = latents if count == 1 else torch.cat([latents] * count)
        parts = list(self.model(inputs, self.timestep, torch.cat(states)).float().chunk(count))
        null = parts.pop(0) if self.given.guidance != 1.0 else None
        further = dict(zip(branches, parts[1:], strict=True))
        return Prediction(parts[0], null, self.given.guidance, further, count)


def _reports(guards: Sequence[Guard], batch: int) -> tuple[tuple[Report, ...], ...]:
    if not guards:
        return ((),) * batch
    reports = [guard.report() for guard in guards]
    for guard, rows in zip(guards, reports, strict=True):
        if len(rows) != batch:
            raise ValueError(f"guard {guard.name} reported {len(rows)} of {batch} cases")
    return tuple(zip(*reports, strict=True))


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Draw standard normal latents (B, C, H, W) in float32, each row from a CPU generator of its case's seed."""
    rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def begun_generator(seed: int, shape: Sequence[int]) -> torch.Generator:
    """Return the generator of a case after it has drawn the case's initial noise (C, H, W)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    torch.randn(tuple(shape), generator=generator)
    return generator
