"""Refuse to compile networks on a machine without a C++ compiler."""

from __future__ import annotations

from audit.errors import EnvironmentProblem
from audit.machine.compilers import compiler, has_compiler


def require_compiler() -> None:
    """Return when there is a C++ compiler. Raises `EnvironmentProblem` otherwise."""
    if not has_compiler():
        raise EnvironmentProblem(
            f"networks cannot be compiled: the C++ compiler {compiler()} is not on the PATH",
            where="--compile or ERASURE_AUDIT_COMPILE",
            next_step="install it (apt-get install g++), name another in CXX, or leave networks uncompiled",
        )
