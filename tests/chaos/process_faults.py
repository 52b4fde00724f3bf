"""Faults of processes: killed, told to end, without power, two at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from audit.plan.document import KINDS
from tests.chaos.arena import SECONDS, VERDICTS, Arena
from tests.chaos.fault import Base, Outcome
from tests.chaos.power_loss import folders_below, lose_power
from tests.chaos.zygote import FSYNC_LOG, Child


class Killed(Base):
    """SIGKILL to the command and its children."""

    kind, weight = "sigkill", 3.0
    storages: Sequence[str] = ("disk", "disk", "s3")
    number: ClassVar[signal.Signals] = signal.SIGKILL

    def apply(self, arena: Arena) -> Outcome:
        child = arena.resume()
        arena.moment(child)
        child.signal(self.number)
        code = child.wait(SECONDS)
        return Outcome(code not in VERDICTS, {arena.run_id: code}, f"exit {code}")


class Terminated(Killed):
    """SIGTERM, as a service manager sends it."""

    kind, number = "sigterm", signal.SIGTERM


class PowerLoss(Base):
    """SIGKILL, and then what was not yet on the disk is gone, in part or in whole."""

    kind, weight = "power-loss", 3.0

    def apply(self, arena: Arena) -> Outcome:
        log = self.log(arena)
        old = folders_below(arena.home)
        before = time.time_ns()
        child = arena.resume(**{FSYNC_LOG: str(log)})
        arena.moment(child)
        self.end(arena, child)
        code = child.wait(SECONDS)
        harmed = lose_power(arena.home, log, before, old, arena.round.random())
        return Outcome(code == -signal.SIGKILL and bool(harmed), {arena.run_id: code}, "; ".join(harmed))

    def log(self, arena: Arena) -> Path:
        """Return the file that fsyncs are noted in."""
        return arena.folder / "fsyncs"

    def end(self, arena: Arena, child: Child) -> None:
        """End at once what writes to the disk."""
        child.signal(signal.SIGKILL)


class TwoConsolidators(Base):
    """Two commands that fold the same finished journal into the same index; sometimes one of them is killed."""

    kind, stages, storages = "two-consolidators", ("consolidate",), ("disk", "s3")

    def apply(self, arena: Arena) -> Outcome:
        rng = arena.round.random()
        first = arena.resume() if rng.random() < 0.5 else arena.start("db", "rebuild")
        time.sleep(rng.uniform(0.0, 1.0))
        second = arena.resume()
        both = first.code is None
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0.5, 4.0))
            both = both and first.code is None
            first.signal(signal.SIGKILL)
        codes = first.wait(SECONDS), second.wait(SECONDS)
        return Outcome(both, {arena.run_id: codes[1]}, f"exits {codes}")


class TwoRuns(Base):
    """Two runs of one spec at once on one journal, or two commands that go on with the same run."""

    kind, stages, storages = "two-runs", ("plan", *KINDS), ("disk", "s3")

    def apply(self, arena: Arena) -> Outcome:
        rng = arena.round.random()
        if rng.random() < 0.5:
            return self._same_run(arena, rng.uniform(0.0, 2.0))
        spec = str(arena.campaign.reference.spec)
        first = arena.start("run", spec)
        time.sleep(rng.uniform(0.0, 2.0))
        second = arena.start("run", spec)
        both = first.code is None
        codes = first.wait(SECONDS), second.wait(SECONDS)
        runs = {_run_id(child.text()): code for child, code in zip((first, second), codes, strict=True)}
        return Outcome(both and len(runs) == 2, runs, f"two runs: exits {codes}")

    def _same_run(self, arena: Arena, pause: float) -> Outcome:
        first = arena.resume()
        time.sleep(pause)
        second = arena.resume()
        both = first.code is None
        codes = first.wait(SECONDS), second.wait(SECONDS)
        # Whoever ended last has folded what the other one left.
        return Outcome(both, {arena.run_id: codes[1]}, f"one run twice: exits {codes}")


def _run_id(text: str) -> str:
    line = next((line for line in text.splitlines() if line.startswith("run ")), "run unknown in")
    return line.split()[1]
