"""What torch.compile needs of a machine, and the ways in which it is used. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Literal

Mode = Literal["inductor", "cuda-graphs"]
COMPILERS = ("g++", "clang++", "c++")


def has_compiler(find: Callable[[str], str | None] = shutil.which) -> bool:
    """Return whether there is a C++ compiler on the PATH."""
    return any(find(name) for name in COMPILERS)
