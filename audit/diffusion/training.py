"""The training loop: seeded for every iteration, resumed from an atomic checkpoint, stopped by NaN."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from audit.errors import EraserError
from audit.files import partial, write_atomically
from audit.progress import Session

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


class Training:
    """Runs iterations and keeps what a later process needs to go on.

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
        self.path = session.folder / f"{name}-{key[:16]}.pt" if session.folder else None
        self.done, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._restore()

    def run(self, iterate: Callable[[torch.Generator], torch.Tensor]) -> None:
        """Train to the end. `iterate` makes one iteration with the generator it gets and returns its loss.

        Raises `EraserError` when the loss or a weight is not finite; the last good checkpoint stays.
        """
        listener, started = self.session.listener, time.monotonic()
        saved, every = started, max(1, self.iterations // POINTS)
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
            now = time.monotonic()
            if now - saved >= self.session.checkpoint_seconds and self.done < self.iterations:
                self.seconds, started = self.seconds + now - started, now
                self._save()
                saved = time.monotonic()
        self.seconds += time.monotonic() - started
        self._require_finite()
        listener.end(self.name)

    @property
    def curve(self) -> tuple[Point, ...]:
        """At most about `POINTS` points, evenly spaced; the last one ends with the last iteration."""
        every = max(1, self.iterations // POINTS)
        ends = [*range(every, len(self.losses) + 1, every)]
        if self.losses and (not ends or ends[-1] != len(self.losses)):
            ends.append(len(self.losses))
        starts = [0, *ends[:-1]]
        return tuple(
            Point(end, sum(self.losses[start:end]) / (end - start)) for start, end in zip(starts, ends, strict=True)
        )

    def _diverged(self, what: str) -> EraserError:
        kept = f"; {self.path} holds an earlier state" if self.path and self.path.exists() else ""
        return EraserError(f"{self.name} diverged: {what}{kept}", where="learning_rate", next_step=_LOWER)

    def _require_finite(self) -> None:
        try:
            require_finite(self.tensors, "weights", _LOWER)
        except EraserError as error:
            raise self._diverged(f"after iteration {self.done} {error.what}") from None

    def _save(self) -> None:
        if self.path is None:
            return
        self._require_finite()
        state = {
            "key": self.key,
            "done": self.done,
            "seconds": self.seconds,
            "losses": self.losses,
            "tensors": {name: tensor.detach() for name, tensor in self.tensors.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }
        write_atomically(self.path, lambda partial: torch.save(state, partial))

    def _restore(self) -> None:
        if self.path is None:
            return
        partial(self.path).unlink(missing_ok=True)  # a process that was killed while it wrote
        if not self.path.exists():
            return
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            fits = state["key"] == self.key and set(state["tensors"]) == set(self.tensors)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
            fits = False
        if not fits:
            self.session.listener.note(f"{self.path} cannot be continued; starting {self.name} anew")
            return
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state["tensors"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.done, self.seconds, self.losses = state["done"], state["seconds"], list(state["losses"])
