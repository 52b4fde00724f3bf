"""Keep the garbage collector from walking, again and again, what imports leave behind for good."""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Treat everything that the block makes as lasting: no collection runs inside it, and none later walks what it made.

    PyTorch, diffusers and Prefect make a million objects when they are imported. Everything alive at the end of the block
    counts as lasting, so it belongs around imports and nothing else.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
        atexit.register(gc.unfreeze)  # some libraries report what is never collected as leaked
