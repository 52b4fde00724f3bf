"""Run mutations through a boundary; collect what came out besides values and the errors that users are meant to see."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from audit.errors import AuditError
from tests.mutations import mutations

SEED = 20261128
SLOW_SECONDS = 5.0
HANG_SECONDS = 20.0
GROWTH_BYTES = 1 << 30
MESSAGE_CHARACTERS = 3000
_ROOT = Path(__file__).parents[2]
_OURS = ("audit", "flows", "tasks")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A boundary made ready in a folder of its own: real files to start from and the function that reads mutated ones.

    `strange` are files to start from that are whole and that nobody need be able to use.
    """

    seeds: Sequence[bytes]
    attempt: Callable[[bytes], object]
    strange: Sequence[bytes] = ()


@dataclasses.dataclass(frozen=True)
class Boundary:
    """One place where bytes from outside are read. `slow_count` mutations take under about a minute."""

    name: str
    open: Callable[[Path], Opened]
    allowed: tuple[type[Exception], ...] = (AuditError,)
    smoke_count: int = 20
    slow_count: int = 2000


@dataclasses.dataclass
class Finding:
    """One kind of outcome that no user may see: what came out, from which line of ours, and the smallest input for it."""

    kind: str
    place: str
    message: str
    index: int
    data: bytes
    count: int = 1

    def __str__(self) -> str:
        shown = self.data if len(self.data) <= 160 else self.data[:120] + b" ... " + self.data[-30:]
        return (
            f"{self.count} x {self.kind} at {self.place}: {self.message}\n"
            f"    mutation {self.index}, {len(self.data)} bytes: {shown!r}"
        )


class Hang(BaseException):
    """An attempt that does not come back; no handler of ordinary exceptions may take it for an answer."""


def run(opened: Opened, allowed: tuple[type[Exception], ...], count: int, seed: int = SEED) -> list[Finding]:
    """Every kind of unexpected outcome of `count` mutations, most frequent first; the unmutated seeds must give values."""
    for number, data in enumerate(opened.seeds):
        try:
            opened.attempt(data)
        except Exception as error:
            raise AssertionError(f"seed {number} is no working file: {error}") from error
    found: dict[tuple[str, str], Finding] = {}
    with _memory_limit(3 * GROWTH_BYTES):
        for index, data in enumerate(_inputs(opened, count, seed)):
            finding = _attempt(opened.attempt, allowed, data, index)
            if finding is None:
                continue
            known = found.setdefault((finding.kind, finding.place), finding)
            if known is not finding:
                known.count += 1
                if len(data) < len(known.data):
                    known.data, known.index, known.message = data, index, finding.message
    return sorted(found.values(), key=lambda finding: -finding.count)


def _inputs(opened: Opened, count: int, seed: int) -> Iterator[bytes]:
    """The strange files themselves, then mutations of all, `count` together."""
    seeds = [*opened.seeds, *opened.strange]
    yield from opened.strange[:count]
    yield from mutations(seeds, count - len(opened.strange[:count]), seed)


def report(name: str, findings: Sequence[Finding], count: int) -> str:
    """The findings of one boundary as text."""
    total = sum(finding.count for finding in findings)
    return "\n".join([f"{name}: {total} of {count} mutations ended unexpectedly", *map(str, findings)])


def _attempt(
    attempt: Callable[[bytes], object], allowed: tuple[type[Exception], ...], data: bytes, index: int
) -> Finding | None:
    started, peak = time.perf_counter(), _peak_bytes(reset=True)
    try:
        with _alarm(HANG_SECONDS):
            attempt(data)
    except allowed as error:
        if _out_of_memory(error):
            return Finding("takes all memory", _place(error), _line(error), index, data)
        if isinstance(error, AuditError) and not error.next_step:
            return Finding("an error without a next step", _place(error), _line(error), index, data)
        if len(str(error)) > MESSAGE_CHARACTERS:
            return Finding("an endless message", _place(error), _line(error), index, data)
    except Hang as error:
        return Finding(f"over {HANG_SECONDS:g} s", _place(error), "", index, data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # panics of native code derive from it
        if type(error).__module__.startswith(("_pytest", "pytest")):
            raise
        return Finding(type(error).__name__, _place(error), _line(error), index, data)
    if _peak_bytes() - peak > GROWTH_BYTES:
        return Finding("over 1 GB more memory", "", "", index, data)
    if time.perf_counter() - started > SLOW_SECONDS:
        return _slow_again(attempt, data, index)
    return None


def _slow_again(attempt: Callable[[bytes], object], data: bytes, index: int) -> Finding | None:
    """A finding when the input is slow a second time; the first time, another process may have had the core."""
    started = time.perf_counter()
    with contextlib.suppress(Exception):
        attempt(data)
    seconds = time.perf_counter() - started
    return Finding(f"over {SLOW_SECONDS:g} s", "", "", index, data) if seconds > SLOW_SECONDS else None


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """Let allocations beyond `more` bytes fail, so that a bomb ends the attempt and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        size = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has held, since the last reset where the system knows one."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(part, MemoryError) or "allocate memory" in str(part) or "out of memory" in str(part)
        for part in _chain(error)
    )


def _place(error: BaseException) -> str:
    """The deepest line of ours in the traceback, and the library's below it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [(number, frame) for number, frame in enumerate(frames) if _is_ours(frame.filename)]
    if not ours:
        return f"{Path(frames[-1].filename).name} {frames[-1].name}" if frames else ""
    number, frame = ours[-1]
    place = f"{Path(frame.filename).relative_to(_ROOT)}:{frame.lineno} {frame.name}"
    below = frames[number + 1] if number + 1 < len(frames) else None
    return f"{place} > {Path(below.filename).name} {below.name}" if below else place


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
