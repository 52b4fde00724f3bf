"""A quality instrument as its entry point names it."""

from __future__ import annotations

import dataclasses

from audit.methods.method import Method
from audit.methods.registry import Registry


@dataclasses.dataclass(frozen=True)
class QualityMethod(Method):
    """A kind of quality instrument. `run(entry, device)` returns an `audit.instruments.quality.base.Meter`.

    `entry` is the spec's `QualitySpec`. Those of other distributions read one picture against another one, and report the
    metric that is called like their kind. Nothing is loaded before the first reading.
    """


QUALITY = Registry("quality", "quality instrument", QualityMethod)
