"""The form in which a check of this machine answers."""

from __future__ import annotations

import dataclasses
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check. `means` and `next_step` are None when all is well."""

    check: str
    level: Level
    found: str
    means: str | None = None
    next_step: str | None = None
