"""The protocol of faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from tests.chaos.arena import Arena
from tests.chaos.reference import STAGES
from tests.chaos.rounds import Drawable


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fault did: whether it hit, the runs to compare with how each one's last command ended, and a word on it."""

    fired: bool
    runs: Mapping[str, int | None]
    note: str = ""


class Fault(Drawable, Protocol):
    """One kind of fault. A kind on a Ray cluster has `ray` among its engines, and starts its commands accordingly."""

    def apply(self, arena: Arena) -> Outcome:
        """Begin the run of the arena, disturb it at the drawn moment, and return when the disturbance is over."""
        ...


class Base:
    """What most faults have in common."""

    kind: str = ""
    weight: float = 1.0
    stages: Sequence[str] = STAGES
    storages: Sequence[str] = ("disk",)
    engines: Sequence[str] = ("inline",)
