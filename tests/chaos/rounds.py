"""A round of a campaign: what is drawn for it, what became of it, and the file that results are appended to."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Drawable(Protocol):
    """What a kind of fault says of itself, so that a round can be drawn for it."""

    @property
    def kind(self) -> str:
        """The name on the command line and in the table."""

    @property
    def weight(self) -> float:
        """How often it is drawn, beside the others."""

    @property
    def stages(self) -> Sequence[str]:
        """The stages that it can disturb."""

    @property
    def storages(self) -> Sequence[str]:
        """Where the run can lie: disk, mount (a file system of its own) or s3."""

    @property
    def engines(self) -> Sequence[str]:
        """What can compute the run: inline or ray."""


@dataclasses.dataclass(frozen=True)
class Round:
    """What a seed draws: a fault and its moment, which is after a part of a stage's units and some seconds more."""

    number: int
    seed: int
    kind: str
    stage: str
    storage: str
    engine: str
    part: float  # of the stage's units, 0 to 1
    delay: float  # seconds

    def random(self) -> random.Random:
        """Return the source of what else the fault draws."""
        return random.Random(f"{self.seed}/{self.number}/{self.kind}")


def draw(seed: int, number: int, faults: Sequence[Drawable], only: str | None = None) -> Round:
    """Return the round that `seed` has at `number`; with `only`, one of that kind."""
    rng = random.Random(f"{seed}/{number}")
    chosen = [fault for fault in faults if only in (None, fault.kind)]
    fault = rng.choices(chosen, [fault.weight for fault in chosen])[0]
    stage = rng.choice(fault.stages)
    longest = 1.0 if stage in ("generate", "detect", "quality") else 3.0  # units are short where there are many
    return Round(
        number=number,
        seed=seed,
        kind=fault.kind,
        stage=stage,
        storage=rng.choice(fault.storages),
        engine=rng.choice(fault.engines),
        part=rng.random(),
        delay=longest * rng.random() ** 2,
    )


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a round. A fault that did not hit makes it one that proves nothing."""

    round: Round
    fired: bool
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    verdict_changed: bool = False
    stuck: bool = False  # no resume ended it
    resumes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    note: str = ""
    examples: tuple[str, ...] = ()

    @property
    def bad(self) -> bool:
        """Return whether the round shows that something was lost, doubled or changed, or that no resume helped."""
        return bool(self.lost or self.doubled or self.changed or self.verdict_changed or self.stuck)


class Results:
    """The results of a campaign, one JSON line each: of a round that was played again the last, of a torn line nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_round: dict[tuple[int, int], Result] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                document = json.loads(line)
            except json.JSONDecodeError:
                continue
            document["round"] = Round(**document["round"])
            document["examples"] = tuple(document["examples"])
            self._keep(Result(**document))

    @property
    def all(self) -> list[Result]:
        """Return the results, one a round."""
        return list(self._by_round.values())

    def add(self, result: Result) -> None:
        """Append one."""
        self._keep(result)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as stream:
            stream.write(("\n" if torn else "") + json.dumps(dataclasses.asdict(result)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def left(self, seed: int, rounds: int) -> list[int]:
        """Return the numbers below `rounds` that have no result of `seed` yet."""
        return [number for number in range(rounds) if (seed, number) not in self._by_round]

    def _keep(self, result: Result) -> None:
        self._by_round[result.round.seed, result.round.number] = result
