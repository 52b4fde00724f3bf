"""The finding of one check of this machine."""

from __future__ import annotations

import dataclasses
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check. `means` and `next_step` are None when all is well."""

    check: str
    level: Level
    found: str
    means: str | None = None
    next_step: str | None = None
