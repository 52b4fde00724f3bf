"""A detector as its entry point names it."""

from __future__ import annotations

import dataclasses

from audit.methods.method import Method
from audit.methods.registry import Registry


@dataclasses.dataclass(frozen=True)
class DetectorMethod(Method):
    """A kind of detector. `run(entry, concepts, device)` returns an `audit.instruments.detectors.base.Detector`.

    `entry` is the spec's `DetectorSpec`, whose `parameters` fit the model `parameters`; `concepts` are the subjects that
    have to be told apart; `device` is a torch device. Nothing is loaded before the first measurement.
    `files` are the parameters that name files or folders of the machine, beside `model`: one, or one for each label.
    """

    files: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)


DETECTORS = Registry("detectors", "detector", DetectorMethod)
