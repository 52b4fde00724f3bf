"""What is left on a disk after the power went: whatever was synchronised, and an unknown part of the rest."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

_FILE_SYSTEM_TICK = 10_000_000  # ns: times of files are those of the kernel's last tick


def folders_below(home: Path) -> frozenset[Path]:
    """Return the folders below `home`."""
    return frozenset(path for path in home.rglob("*") if path.is_dir())


def lose_power(home: Path, log: Path, since: int, old: frozenset[Path], rng: random.Random) -> list[str]:
    """Harm a random part of what was written below `home` after `since` (ns) and not synchronised; return what was done.

    `log` is what `tests.chaos.zygote.note_fsyncs` wrote. A file whose bytes were not synchronised is cut, filled with zeros
    from some place on, or gone. One whose bytes were, but not the folder since it got its name, may lack the name; so may a
    folder that is none of the `old` ones, with all that is in it, as long as the one it was made in was not synchronised. DuckDB
    synchronises its files by itself and unseen: only the end of its write-ahead log and unfinished copies are harmed.
    """
    contents, folders = _synchronised(log)
    harmed = []
    for path in sorted(path for path in home.rglob("*") if path.is_file() and not path.is_symlink()):
        state = path.stat()
        if max(state.st_mtime_ns, state.st_ctime_ns) < since:
            continue
        durable = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size) in contents
        if path.suffix == ".duckdb" or path.name.endswith(".lock"):
            continue
        if not durable and path.suffix not in (".wal",):
            if rng.random() < 0.7:
                harmed.append(f"{_harm(path, rng)} {path.relative_to(home)}")
        elif path.suffix == ".wal":
            if rng.random() < 0.5:
                os.truncate(path, rng.randrange(state.st_size + 1))
                harmed.append(f"cut {path.relative_to(home)}")
        elif not _named(path, folders, state.st_ctime_ns) and rng.random() < 0.7:
            path.unlink()
            harmed.append(f"lost the name of {path.relative_to(home)}")
    for folder in sorted(folders_below(home) - old):
        if folder.exists() and not _named(folder, folders, since) and rng.random() < 0.5:
            shutil.rmtree(folder)
            harmed.append(f"lost the folder {folder.relative_to(home)}")
    return harmed


def _synchronised(log: Path) -> tuple[set[tuple[int, int, int, int]], dict[tuple[int, int], int]]:
    """Return the states of files whose bytes were synchronised, and by folder when it last was (ns)."""
    contents, last = set(), {}
    for line in log.read_text().splitlines() if log.exists() else ():
        fields = [int(field) for field in line.split()]
        if len(fields) == 5:
            device, inode, changed, size, now = fields
            contents.add((device, inode, changed, size))
            last[device, inode] = now
    return contents, last


def _named(path: Path, folders: dict[tuple[int, int], int], since: int) -> bool:
    """Return whether the folder was synchronised after the file got its name."""
    parent = path.parent.stat()
    return folders.get((parent.st_dev, parent.st_ino), 0) >= since - _FILE_SYSTEM_TICK


def _harm(path: Path, rng: random.Random) -> str:
    size = path.stat().st_size
    kind = rng.choice(("cut", "zeros in", "lost"))
    if kind == "lost":
        path.unlink()
        return kind
    place = rng.randrange(size + 1)
    os.truncate(path, place)
    if kind == "zeros in":
        os.truncate(path, size)
    return kind
