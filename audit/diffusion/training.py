"""The training loop: seeded for every iteration, resumed from an atomic checkpoint, stopped by NaN."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import torch

from audit.errors import EraserError
from audit.progress import Checkpoint, Session

log = logging.getLogger(__name__)

POINTS = 20  # of a training curve
_LOWER = "lower it with --set learning_rate=..., or train with --set compute=float32"


@dataclasses.dataclass(frozen=True)
class Point:
    """Mean loss of the iterations since the last point, up to and with `iteration` (from 1)."""

    iteration: int
    loss: float


def require_finite(tensors: Mapping[str, torch.Tensor], what: str, next_step: str) -> None:
    """Return when no tensor holds NaN or infinity; raises `EraserError` that names the first one."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise EraserError(f"{what}: {name} holds NaN or infinity", next_step=next_step)


class _State(TypedDict):
    """The content of a checkpoint."""

    key: str
    done: int
    seconds: float
    losses: list[float]
    tensors: dict[str, torch.Tensor]
    optimisers: dict[str, dict[str, object]]


class Training:
    """A training: its iterations, and the state from which a later process goes on.

    `tensors` are the trained leaves, changed in place; `key` identifies everything that determines the result, so a
    checkpoint of other parameters is never continued.
    """

    def __init__(
        self,
        name: str,
        key: str,
        tensors: Mapping[str, torch.Tensor],
        optimisers: Mapping[str, torch.optim.Optimizer],
        *,
        iterations: int,
        seed: int,
        session: Session,
    ) -> None:
        self.name, self.key, self.iterations, self.seed, self.session = name, key, iterations, seed, session
        self.tensors, self.optimisers = dict(tensors), dict(optimisers)
        self.checkpoint = Checkpoint(session, f"{name}-{key[:16]}.pt", name)
        self.done, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._restore()

    def run(self, iterate: Callable[[torch.Generator], torch.Tensor]) -> None:
        """Train to the end. `iterate` makes one iteration with the generator it gets and returns its loss.

        Raises `EraserError` when the loss or a weight is not finite; the last good checkpoint stays.
        """
        listener, started = self.session.listener, time.monotonic()
        every = max(1, self.iterations // POINTS)
        listener.begin(self.name, self.iterations, self.done)
        while self.done < self.iterations:
            # One generator for each iteration, so that a resumed training draws what an uninterrupted one would.
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.done)
            loss = float(iterate(generator).detach())
            if loss != loss or loss in (float("inf"), float("-inf")):
                raise self._diverged(f"the loss is {loss} at iteration {self.done + 1} of {self.iterations}")
            self.losses.append(loss)
            self.done += 1
            listener.update(self.name, self.done)
            if self.done % every == 0 or self.done == self.iterations:
                text = f"{self.name} iteration {self.done}/{self.iterations} loss {self.curve[-1].loss:.6f}"
                log.info(text)
                listener.note(text)
            if self.checkpoint.due() and self.done < self.iterations:
                now = time.monotonic()
                self.seconds, started = self.seconds + now - started, now
                self._save()
        self.seconds += time.monotonic() - started
        self._require_finite()
        listener.end(self.name)

    @property
    def curve(self) -> tuple[Point, ...]:
        """The losses as about `POINTS` points at most, evenly spaced; the last one ends with the last iteration."""
        every = max(1, self.iterations // POINTS)
        ends = [*range(every, len(self.losses) + 1, every)]
        if self.losses and (not ends or ends[-1] != len(self.losses)):
            ends.append(len(self.losses))
        starts = [0, *ends[:-1]]
        return tuple(
            Point(end, sum(self.losses[start:end]) / (end - start)) for start, end in zip(starts, ends, strict=True)
        )

    def _diverged(self, what: str) -> EraserError:
        path = self.checkpoint.path
        kept = f"; {path} holds an earlier state" if path and path.exists() else ""
        return EraserError(f"{self.name} diverged: {what}{kept}", where="learning_rate", next_step=_LOWER)

    def _require_finite(self) -> None:
        try:
            require_finite(self.tensors, "weights", _LOWER)
        except EraserError as error:
            raise self._diverged(f"after iteration {self.done} {error.what}") from None

    def _save(self) -> None:
        if self.checkpoint.path is not None:
            self._require_finite()
        state: _State = {
            "key": self.key,
            "done": self.done,
            "seconds": self.seconds,
            "losses": self.losses,
            "tensors": {name: tensor.detach() for name, tensor in self.tensors.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }
        self.checkpoint.save(lambda path: torch.save(state, path))

    def _restore(self) -> None:
        state = self.checkpoint.restored(self._load)
        if state is None:
            return
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state["tensors"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.done, self.seconds, self.losses = state["done"], state["seconds"], list(state["losses"])

    def _load(self, path: Path) -> _State:
        state: _State = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] != self.key or set(state["tensors"]) != set(self.tensors):
            raise ValueError("it is of another training")
        return state
