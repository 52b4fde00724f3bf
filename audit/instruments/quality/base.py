"""The protocol of quality instruments: one reading per task, a number, a vector or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from audit.corpus.images import Mask
from audit.identity import canonical, int_key
from audit.instruments.detectors.base import Pixels
from audit.instruments.quality.method import QUALITY
from audit.records import QualityInstrument
from audit.spec.quality import QualitySpec


@dataclasses.dataclass(frozen=True)
class Task:
    """One picture, with the picture or the prompt that it is measured against, as the instrument's kind asks."""

    picture: Pixels
    other: Pixels | None = None
    prompt: str | None = None
    region: Mask | None = None  # (H, W), the pixels that count; None for all of them


@dataclasses.dataclass(frozen=True)
class Reading:
    """A number, a feature vector (D,), or the reason why this task can never be read."""

    value: float | None = None
    vector: npt.NDArray[np.float32] | None = None
    error: str | None = None


class Meter(Protocol):
    """A quality instrument. Building one loads nothing; the first reading loads the network."""

    @property
    def instrument(self) -> QualityInstrument:
        """Everything that determines the readings, from file digests alone."""

    def read(self, tasks: Sequence[Task]) -> list[Reading]:
        """Return one reading per task, in order. Raises what a batch as a whole meets; the stage then isolates the picture."""


def make_instrument(
    entry: QualitySpec,
    *,
    version: str,
    weights_sha256: str,
    preprocessing: str,
    metrics: tuple[str, ...],
    parameters: Mapping[str, object],
    package: str = "",
) -> QualityInstrument:
    """Return the instrument of a spec entry. Its id covers every field but the entry's name.

    A plug-in's distribution is put before `package`.
    """
    plugin = QUALITY.foreign(entry.kind)
    if plugin is not None:
        package = ", ".join(filter(None, (plugin.package, package)))
    draft = QualityInstrument(
        instrument_id=0,
        instrument=entry.name,
        kind=entry.kind,
        version=version,
        package=package,
        weights_sha256=weights_sha256,
        preprocessing=preprocessing,
        metrics=metrics,
        parameters=canonical(parameters),
    )
    described = {k: v for k, v in dataclasses.asdict(draft).items() if k not in ("instrument_id", "instrument")}
    return dataclasses.replace(draft, instrument_id=int_key(described))
