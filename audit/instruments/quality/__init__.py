"""Quality instruments: pictures in, a number or a feature vector out. Torch is imported when measuring only."""

from __future__ import annotations

from audit.errors import SpecError
from audit.instruments.detectors.base import require_named
from audit.instruments.quality.base import Meter, Reading, Task
from audit.instruments.quality.method import QUALITY
from audit.methods.registry import one_of
from audit.records import QualityInstrument
from audit.spec.quality import QualitySpec

__all__ = ["QUALITY", "Meter", "Reading", "Task", "build"]


def build(entry: QualitySpec, device: str = "cpu") -> Meter:
    """Return the meter of a spec entry, ready to name its instrument; a network is loaded at the first reading.

    Raises `SpecError` for an unknown kind, `CheckpointError` or `DetectorError` for an entry that cannot work,
    `MissingInstrument` where files are not here.
    """
    where = f"quality.{entry.name}"
    try:
        method = QUALITY.find(entry.kind, where)
    except KeyError:
        raise SpecError(
            f"kind: Input should be {one_of(QUALITY.names())}", where=where, next_step="mend this field"
        ) from None
    meter: Meter = method.function()(entry, device)  # type: ignore[assignment]
    plugin = QUALITY.foreign(entry.kind)
    if plugin is not None:
        require_named(getattr(meter, "instrument", None), QualityInstrument, plugin, f"quality {entry.kind}", where)
    return meter
