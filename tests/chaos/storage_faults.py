"""Faults of the storage: S3 behind the harmful proxy, a full disk, a file system that turns read-only."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.arena import SECONDS, Arena
from tests.chaos.fault import Base, Outcome
from tests.chaos.proxy import Rule
from tests.chaos.reference import STAGES
from tests.chaos.s3_rules import HARMS
from tests.chaos.zygote import Child

_BEFORE_REPORT = STAGES[:-1]  # the report of a run on S3 is written to a local folder


class S3Fault(Base):
    """One kind of harm on the way to S3, to a few requests or to all until the command has ended."""

    stages: Sequence[str] = _BEFORE_REPORT
    storages, weight = ("s3",), 0.9

    def __init__(self, name: str) -> None:
        self.kind = name

    def apply(self, arena: Arena) -> Outcome:
        rng, proxy = arena.round.random(), arena.proxy
        assert proxy
        few = rng.random() < 0.7
        left = rng.randint(1, 12) if few else 1_000_000
        name = self.harm(rng)
        harm: Rule = HARMS[name](rng, left)
        child = arena.resume()
        arena.moment(child)
        proxy.rule = harm
        code = child.wait(SECONDS)
        time.sleep(1.0 if name == "s3-duplicate-put" else 0.0)  # the last one that comes later
        proxy.rule = None
        hits = proxy.hits
        return Outcome(hits > 0, {arena.run_id: code}, f"{name}: {hits} of {proxy.requests} requests, exit {code}")

    def harm(self, rng: random.Random) -> str:
        """Return the name of the harm."""
        return self.kind


class _OfDisk(Base):
    """A fault of a small file system of the round's own, from the drawn moment until the command has ended or a while."""

    storages, weight = ("mount",), 1.5

    def _during(self, arena: Arena, child: Child, undo: Callable[[], object]) -> int:
        """Return how the command ended; the fault is undone then, or sooner."""
        patience = time.monotonic() + (arena.round.random().uniform(0.05, 3.0) if arena.round.part < 0.5 else SECONDS)
        while child.code is None and time.monotonic() < patience:
            time.sleep(0.02)
        undo()
        return child.wait(SECONDS)


class DiskFull(_OfDisk):
    """A disk on which all but a few bytes are taken."""

    kind = "disk-full"

    def apply(self, arena: Arena) -> Outcome:
        filler = arena.home / "filler"
        rng = arena.round.random()
        child = arena.resume()
        arena.moment(child)
        state = os.statvfs(arena.home)
        free = max(0, state.f_bavail * state.f_frsize - rng.choice((0, 4096, 65536, 1 << 20)))
        with filler.open("wb") as stream, contextlib.suppress(OSError):
            os.posix_fallocate(stream.fileno(), 0, free)
        began = child.code is None
        code = self._during(arena, child, filler.unlink)
        return Outcome(began, {arena.run_id: code}, f"exit {code}")


class ReadOnly(_OfDisk):
    """A file system that takes no more writes, as the kernel leaves one with errors."""

    kind = "read-only"

    def apply(self, arena: Arena) -> Outcome:
        child = arena.resume()
        arena.moment(child)
        fired = False
        while child.code is None and not fired:  # refused while a file is open for writing
            fired = _remount(arena.home, "ro")
        code = self._during(arena, child, lambda: _remount(arena.home, "rw"))
        return Outcome(fired, {arena.run_id: code}, f"exit {code}")


def _remount(folder: Path, mode: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=False, capture_output=True).returncode == 0
