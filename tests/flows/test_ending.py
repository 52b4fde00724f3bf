"""A command's process ends without freeing what it imported, and nothing that it has to do at its end is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.machines import REPOSITORY

PROGRAM = """
import atexit, threading, time
from flows import ending

class Freed:
    def __del__(self):
        print("freed")

def command():
    global kept
    kept = Freed()
    kept.itself = kept  # for the collector alone
    atexit.register(print, "exit function")
    def late():
        time.sleep(0.2)
        print("thread", end=" ")
    threading.Thread(target=late).start()
    {body}

ending.run(command)
"""


def ended(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("code", [0, 3])
def test_threads_and_exit_functions_end_first_and_nothing_is_freed(code: int) -> None:
    done = ended(f"return {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "thread exit function\n", "")


def test_a_command_that_raises_ends_as_ever() -> None:
    done = ended("raise ValueError('no')")
    assert done.returncode == 1
    assert done.stdout == "thread exit function\nfreed\n"
    assert done.stderr.endswith("ValueError: no\n")
