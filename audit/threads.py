"""The cores that this process may really use, and the settings of OpenMP's threads that follow, made before torch loads.

Numbers depend in their last bits on the count of threads, so it follows from the machine alone and never from its load.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
# A thread that waits for others spins this often before it sleeps: GNU's OpenMP (PyTorch's wheels) and LLVM's and Intel's.
# Theirs is far more, and beside a busy process it burns what the thread that is waited for would need.
SPIN = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
POLICIES = ("OMP_WAIT_POLICY", *SPIN)

_settled: set[str] = set()  # variables that this process has set itself; a child takes them for its user's


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting and its origin, in words for people."""

    value: str
    origin: str


def settle() -> None:
    """Bound the spinning of waiting threads, and take no more threads than a control group has cores for.

    Where no quota binds, the libraries count the cores themselves. What the user has set stays.
    """
    if not any(os.environ.get(name) for name in POLICIES):
        _set(SPIN)
    quota = cpu_quota()
    if not os.environ.get(COUNT) and quota is not None and threads_for(quota) < affinity():
        _set({COUNT: str(threads_for(quota))})


def _set(values: dict[str, str]) -> None:
    os.environ.update(values)
    _settled.update(values)


def affinity() -> int:
    """Logical cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(quota: float) -> int:
    """Threads for a quota in cores: the nearest whole number, at least one."""
    return max(1, int(quota + 0.5))


def count() -> Setting:
    """The number of threads that computing takes, once it starts, and its origin."""
    given = os.environ.get(COUNT)
    if given and COUNT not in _settled:
        return Setting(given, f"{COUNT} is set")
    if given:
        return Setting(given, f"the control group's quota, {cpu_quota():g} cores")
    return Setting(str(affinity()), "the cores that this process may use")


def waiting() -> Setting:
    """The way in which idle threads wait, and its origin."""
    given = [f"{name}={os.environ[name]}" for name in POLICIES if os.environ.get(name)]
    own = all(name in _settled for name in POLICIES if os.environ.get(name))
    return Setting(", ".join(given), "the default here" if own else "set in the environment")


def busy_cores() -> float | None:
    """Cores that were busy or waited for in the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that this process's control groups (version 1 or 2) grant it at most; None without such a limit."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    groups = [group for line in lines for group in _groups(line, mount)]
    return min((limit for group in groups if (limit := _limit(group)) is not None), default=None)


def _groups(line: str, mount: Path) -> Iterator[Path]:
    """Folders that may limit what `line` says this process belongs to: its group and all above it."""
    parts = line.split(":", 2)
    if len(parts) != 3:
        return
    controllers = parts[1].split(",")
    if controllers != [""] and "cpu" not in controllers:
        return
    bases = (mount, mount / "unified") if controllers == [""] else (mount / parts[1], mount / "cpu")
    names = [name for name in parts[2].split("/") if name not in ("", "..")]
    for base in bases:
        for depth in range(len(names) + 1):  # inside a container the path is often not visible, its root is
            yield base.joinpath(*names[:depth])


def _limit(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
    try:
        cores = int(quota) / int(period)  # "max", or -1: no limit
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
