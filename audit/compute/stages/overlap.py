"""Work of the CPU beside that of the GPU: pictures decoded before a batch needs them, rows finished after it is made.

On the CPU itself everything happens at once and in order: threads would only take cores from the networks. What is
computed is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

THREADS = 4  # of one worker; zlib and libpng let go of the interpreter's lock
T = TypeVar("T")
R = TypeVar("R")


def threads_beside(device: torch.device) -> int:
    """Return the number of threads that may work beside a device: none beside the CPU."""
    return 0 if device.type == "cpu" else THREADS


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return `tensor` on `device`; to CUDA through pinned memory, so that the copy does not hold up this thread."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Finisher:
    """Finishes results in `threads` beside the caller; with none, at once."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "finish") if threads else None

    def submit(self, finish: Callable[[], R]) -> R | Future[R]:
        """Return the result, or what will be it."""
        return finish() if self._pool is None else self._pool.submit(finish)


class Ahead(Generic[T, R]):
    """Loads items in `threads` before they are asked for, `depth` of them beyond the last one asked for."""

    def __init__(self, items: Sequence[T], load: Callable[[T], R], depth: int, threads: int) -> None:
        self._items, self._load, self._depth = items, load, depth
        self._places = {id(item): place for place, item in enumerate(items)}
        self._pool = ThreadPoolExecutor(threads, "ahead") if threads else None
        self._loading: dict[int, Future[R]] = {}

    def take(self, items: Sequence[T]) -> list[R]:
        """Return the loaded items, each of which is one of those that were given; raises what loading one raises.

        One that is asked for again, as after an error, is loaded again.
        """
        if self._pool is None or not items:
            return [self._load(item) for item in items]
        places = [self._places[id(item)] for item in items]
        for place in range(places[0], min(places[-1] + 1 + self._depth, len(self._items))):
            if place not in self._loading:
                self._loading[place] = self._pool.submit(self._load, self._items[place])
        return [self._loading.pop(place).result() for place in places]
