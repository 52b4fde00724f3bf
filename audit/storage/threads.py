"""Read many objects by several threads, with a bounded number of them in memory at a time."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

THREADS = 8
_CHUNK = 16  # objects that one thread reads in a go


def in_threads(read: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield `read(item)` of every item, in order. An error of `read` passes through."""

    def work(chunk: Sequence[S]) -> list[T]:
        return [read(item) for item in chunk]

    source = iter(items)
    chunks = iter(lambda: tuple(itertools.islice(source, _CHUNK)), ())
    pool = ThreadPoolExecutor(THREADS)
    try:
        waiting = collections.deque(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 2 * THREADS))
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(work, chunk) for chunk in itertools.islice(chunks, 1))
    finally:
        pool.shutdown(cancel_futures=True)
