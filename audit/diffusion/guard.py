"""The protocol of guards: the hooks of a denoising step, and the record of what a guard did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import torch

from audit import identity
from audit.diffusion.levels import Level, clean_of
from audit.weights.schedulers import Kind


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
    seeds: tuple[int, ...] = ()  # the cases' own seeds; guards that draw noise need them


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the loop, from `level` to `below`: `index` counts from 0 (noisiest), `timestep` is the network's.

    `kind` is what the network predicts. Hooks see its predictions as they are; `clean` says what they mean. Some schedulers
    evaluate between two training timesteps, of which `timestep` is the nearest, and some twice at one.
    """

    index: int
    timestep: float
    level: Level
    below: Level
    kind: Kind = "epsilon"

    def clean(self, latents: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """Return the clean latents that a prediction at `latents` means (Tweedie's estimate)."""
        return clean_of(self.kind, self.level, latents, prediction)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The network's predictions (B, C, H, W) at one latent: under the prompt, under the null prompt, in the guards' branches.

    `null` is None with guidance 1. `further` holds each guard's own branch by the guard's name. `calls` counts the UNet
    evaluations that one case cost.
    """

    prompt: torch.Tensor
    null: torch.Tensor | None
    guidance: float
    further: Mapping[str, torch.Tensor]
    calls: int

    @property
    def guided(self) -> torch.Tensor:
        """The prediction under classifier-free guidance, null + g (prompt - null)."""
        return self.prompt if self.null is None else self.null + self.guidance * (self.prompt - self.null)


Predict = Callable[[torch.Tensor], Prediction]


@dataclasses.dataclass(frozen=True)
class Report:
    """The record of what one guard did to one case.

    `reason` says why it never acted and is None when it did. `failure` means that the guard cannot vouch for the
    picture, which then is not assessed. `measures` are numbers, `facts` texts; `unet_calls` are evaluations that the
    guard asked for beside the loop's own.
    """

    guard: str
    version: str
    timesteps: tuple[float, ...]  # at which it acted, in the order of denoising
    reason: str | None
    failure: str | None
    measures: Mapping[str, float]
    facts: Mapping[str, str]
    unet_calls: int

    def document(self) -> dict[str, object]:
        """Return the report as one JSON object. Numbers that are not finite become null."""
        return {
            "guard": self.guard,
            "version": self.version,
            "acted": bool(self.timesteps),
            "steps": len(self.timesteps),
            "first_timestep": self.timesteps[0] if self.timesteps else None,
            "last_timestep": self.timesteps[-1] if self.timesteps else None,
            "reason": self.reason,
            "failure": self.failure,
            "unet_calls": self.unet_calls,
            "measures": {name: _finite(value) for name, value in self.measures.items()},
            "facts": dict(self.facts),
        }


def as_json(reports: Sequence[Report]) -> str | None:
    """Return the reports of one case as a JSON list, in the order of its guards; None without guards."""
    return json.dumps([report.document() for report in reports], sort_keys=True) if reports else None


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None


class Ledger:
    """The record of what a guard does to each case of one batch."""

    def __init__(self, guard: Guard, cases: int) -> None:
        self._guard = guard
        self._timesteps: list[list[float]] = [[] for _ in range(cases)]
        self._reasons: list[str | None] = [None] * cases
        self._failures: list[str | None] = [None] * cases
        self._measures: list[dict[str, float]] = [{} for _ in range(cases)]
        self._facts: list[dict[str, str]] = [{} for _ in range(cases)]
        self._calls = [0] * cases

    def act(self, row: int, timestep: float) -> None:
        """Record that the guard acted on a case at this timestep."""
        if not self._timesteps[row] or self._timesteps[row][-1] != timestep:
            self._timesteps[row].append(timestep)

    def acted(self, row: int) -> bool:
        """Return whether the guard acted on a case at any timestep."""
        return bool(self._timesteps[row])

    def idle(self, row: int, reason: str) -> None:
        """Record the reason why the guard does not act on a case; the first one stays."""
        self._reasons[row] = self._reasons[row] or reason

    def fail(self, row: int, failure: str) -> None:
        """Record that the guard could not do its work on a case; the first failure stays."""
        self._failures[row] = self._failures[row] or failure

    def failed(self, row: int) -> bool:
        """Return whether the guard gave up on a case."""
        return self._failures[row] is not None

    def measure(self, row: int, **values: float) -> None:
        """Record numbers about a case; a later value replaces an earlier one of that name."""
        self._measures[row].update(values)

    def say(self, row: int, **facts: str) -> None:
        """Record texts about a case."""
        self._facts[row].update(facts)

    def count(self, row: int, calls: int) -> None:
        """Add UNet evaluations that the guard asked for."""
        self._calls[row] += calls

    def reports(self) -> list[Report]:
        """Return one report per case. A guard that neither acted nor gave a reason says just that."""
        return [
            Report(
                guard=self._guard.name,
                version=self._guard.version,
                timesteps=tuple(steps),
                reason=None if steps else self._reasons[row] or "it never had cause to act",
                failure=self._failures[row],
                measures=self._measures[row],
                facts=self._facts[row],
                unet_calls=self._calls[row],
            )
            for row, steps in enumerate(self._timesteps)
        ]


class Guard:
    """A guard that does nothing; concrete guards override the hooks they need.

    `begin` opens a batch. At each step the hooks run in this order, each over all guards as the spec lists them:
    `condition`, `before_step`, the UNet, `guide`, the scheduler's update, `after_step`. `finish` sees the denoised latents.
    Latents are variance-preserving, sqrt(abar) z0 + sqrt(1 - abar) noise, whatever the scheduler keeps them as. A guard
    sees a whole batch but must treat its rows independently, so that a case's picture does not depend on its
    neighbours; what it draws at random it draws with `case_generator`.
    """

    name = "identity"
    version = "1"

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Forget the last batch; `timesteps` are the loop's, noisiest first. Raises ValueError for what cannot work."""
        self.ledger = Ledger(self, len(conditioning.texts))

    def condition(self, conditioning: Conditioning, step: Step) -> Conditioning:
        """Return the conditioning to denoise this step with."""
        return conditioning

    def branch(self) -> torch.Tensor | None:
        """Return states (B, L, D) under which the UNet is evaluated too at each step, in the same call; None for none."""
        return None

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        """Return the latents (B, C, H, W) to hand to the UNet at this step.

        `predict` evaluates the guarded model under this step's conditioning at any latents of that shape; gradients
        pass through it where the caller enables them. What other guards do to the prediction is not in it.
        """
        return latents

    def guide(self, noise: torch.Tensor, prediction: Prediction, step: Step) -> torch.Tensor:
        """Return the noise (B, C, H, W) to step with, from the combined prediction so far and its parts."""
        return noise

    def after_step(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the latents (B, C, H, W) to carry into the next step."""
        return latents

    def finish(self, latents: torch.Tensor) -> None:
        """Look at the denoised latents (B, C, H, W), which can no longer be changed."""

    def report(self) -> list[Report]:
        """Return a report for each case of the last batch: at which steps the guard acted, or why it did not."""
        return self.ledger.reports()


def case_generator(guard: str, seed: int, purpose: str = "") -> torch.Generator:
    """Return a CPU generator of one case and one guard, so that neither batch nor other guards change what it draws.

    It is another stream than the case's initial noise, which the seed itself seeds, and the same for all parameters of a
    guard, so that they are compared on the same noise.
    """
    return torch.Generator("cpu").manual_seed(identity.int_key({"guard": guard, "seed": seed, "purpose": purpose}))
