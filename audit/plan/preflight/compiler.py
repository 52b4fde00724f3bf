"""Refuse to compile networks where no compiler is."""

from __future__ import annotations

from audit.errors import EnvironmentProblem
from audit.machine.compilers import COMPILERS, has_compiler


def require_compiler() -> None:
    """Return when there is a C++ compiler. Raises `EnvironmentProblem` otherwise."""
    if not has_compiler():
        raise EnvironmentProblem(
            f"networks cannot be compiled: none of {', '.join(COMPILERS)} is on the PATH",
            where="--compile",
            next_step="install a C++ compiler (apt-get install g++), or leave --compile out",
        )
