"""Count the cores that this process may use, and set OpenMP's threads accordingly before torch loads.

The number of threads follows from the machine alone, never from its load: numbers depend on it in their last bits. How
idle threads wait changes no number, and follows from the load when this process begins.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
# Idle threads spin by default. On free cores that is up to three times as fast as sleeping; beside a busy process it
# takes the time of the thread that is waited for, and sleeping is up to ten times as fast.
WAITING = "OMP_WAIT_POLICY"
POLICIES = (WAITING, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LOOKS, _BETWEEN_SECONDS = 3, 0.005

_settled: set[str] = set()  # variables that this process has set itself; a child takes them for its user's


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting and its origin, in words for people."""

    value: str
    origin: str


def settle() -> None:
    """Set the number of OpenMP threads to the cores of the control group, and let them sleep in wait where cores are taken.

    Where no quota binds, the libraries count the cores themselves. What the user has set stays.
    """
    quota = cpu_quota()
    if not os.environ.get(COUNT) and quota is not None and threads_for(quota) < affinity():
        _set({COUNT: str(threads_for(quota))})
    if not any(os.environ.get(name) for name in POLICIES) and crowded():
        _set({WAITING: "PASSIVE"})


def _set(values: dict[str, str]) -> None:
    os.environ.update(values)
    _settled.update(values)


def affinity() -> int:
    """Return the number of logical cores that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Return the number of cores that this process may keep busy: those that it may be scheduled on, within its quota."""
    quota = cpu_quota()
    return affinity() if quota is None else min(affinity(), threads_for(quota))


def share(processes: int) -> int | None:
    """Return the number of threads for each of several processes that compute at once; None where nothing is to be set.

    It follows from the machine and the number of processes alone. What the user has set stays; one process takes all cores.
    """
    if processes < 2 or (os.environ.get(COUNT) and COUNT not in _settled):
        return None
    return max(1, usable_cores() // processes)


def threads_for(quota: float) -> int:
    """Return the number of threads for a quota in cores: the nearest whole number, at least one."""
    return max(1, int(quota + 0.5))


def count() -> Setting:
    """Return the number of threads that computing will use, and its origin."""
    value = os.environ.get(COUNT)
    if value and COUNT not in _settled:
        return Setting(value, f"{COUNT} is set")
    if value:
        return Setting(value, f"the control group's quota, {cpu_quota():g} cores")
    return Setting(str(affinity()), "the cores that this process may use")


def waiting() -> Setting:
    """Return the way in which idle threads wait, and its origin."""
    settings = [f"{name}={os.environ[name]}" for name in POLICIES if os.environ.get(name)]
    if not settings:
        return Setting("spinning", "the default, as cores were free when this process began")
    if WAITING in _settled:
        return Setting(settings[0], "cores were taken when this process began")
    return Setting(", ".join(settings), "set in the environment")


def crowded() -> bool:
    """Return whether other processes leave fewer cores than this one would compute on; False where the system does not say."""
    wanted = int(count().value) if count().value.isdigit() else affinity()
    return wanted > 1 and running_elsewhere() + wanted > (os.cpu_count() or 1)


def running_elsewhere(source: Path = Path("/proc/loadavg")) -> int:
    """Return the number of this machine's tasks, this one apart, that run all the time: the fewest of several looks.

    0 where the system does not say. The average load would not do: it still holds this user's last run a minute after
    its end.
    """
    fewest: int | None = None
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_SECONDS)
        try:
            running = int(source.read_text(encoding="ascii").split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return 0
        fewest = running if fewest is None else min(fewest, running)
    return max(0, (fewest or 0) - 1)


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the number of cores that this process's control groups (version 1 or 2) grant at most; None without a limit."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    groups = [group for line in lines for group in _groups(line, mount)]
    return min((limit for group in groups if (limit := _limit(group)) is not None), default=None)


def _groups(line: str, mount: Path) -> Iterator[Path]:
    """Yield the folders that may limit what `line` says this process belongs to: its group and all above it."""
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
