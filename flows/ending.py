"""End a command as soon as its work is done.

Python frees what it imported, object by object, before a process ends: a million objects after PyTorch and Prefect, which takes
seconds and changes nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run(command: Callable[[], int]) -> NoReturn:
    """Run `command` and end the process with its exit code, once threads and exit functions have ended and output is written.

    Exit functions that were registered before this call, by what had been imported by then, are not run, but for logging's.
    """
    codes: list[int] = []
    atexit.register(_end, codes)  # first registered, last run
    codes.append(command())
    sys.exit(codes[0])


def _end(codes: list[int]) -> None:
    if not codes:  # the command raised, and Python says so and ends as ever
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()
    os._exit(codes[0])
