"""What torch.compile needs of a machine, and the ways in which it is used. Imports no torch."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal

Mode = Literal["inductor", "cuda-graphs"]


def compiler() -> str:
    """Return the name of the C++ compiler that torch.compile calls."""
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def has_compiler() -> bool:
    """Return whether that compiler is on the PATH."""
    return shutil.which(compiler()) is not None
