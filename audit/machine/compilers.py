"""What torch.compile needs of a machine, and the ways in which it is used. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Literal

from audit.errors import EnvironmentProblem

Mode = Literal["inductor", "cuda-graphs"]
COMPILERS = ("g++", "clang++", "c++")


def require_compiler(find: Callable[[str], str | None] = shutil.which) -> None:
    """Return when there is a C++ compiler. Raises `EnvironmentProblem` otherwise."""
    if not any(find(name) for name in COMPILERS):
        raise EnvironmentProblem(
            f"networks cannot be compiled: none of {', '.join(COMPILERS)} is on the PATH",
            where="--compile",
            next_step="install a C++ compiler (apt-get install g++), or leave --compile out",
        )
