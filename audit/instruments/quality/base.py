"""What every quality instrument promises: one reading per task, a number, a vector or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
        """One reading per task, in order. Raises whatever a batch as a whole meets; the stage isolates the picture."""


def make_instrument(entry: QualitySpec, *, parameters: Mapping[str, Any], **fields: Any) -> QualityInstrument:
    """The instrument of a spec entry. Its id covers every field but the entry's name.

    `package` names the distribution of a plug-in, too.
    """
    plugin = QUALITY.foreign(entry.kind)
    if plugin is not None:
        fields["package"] = ", ".join(filter(None, (plugin.package, fields.get("package"))))
    draft = QualityInstrument(
        instrument_id=0, instrument=entry.name, kind=entry.kind, parameters=canonical(parameters), **fields
    )
    described = {k: v for k, v in dataclasses.asdict(draft).items() if k not in ("instrument_id", "instrument")}
    return dataclasses.replace(draft, instrument_id=int_key(described))
