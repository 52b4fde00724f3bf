"""Quality instruments: pictures in, a number or a feature vector out. Torch is imported when measuring only."""

from __future__ import annotations

from audit.meters.base import Meter, Reading, Task
from audit.quality_spec import FORMULAS, QualitySpec

__all__ = ["Meter", "Reading", "Task", "build"]


def build(entry: QualitySpec, device: str = "cpu") -> Meter:
    """The meter of a spec entry, ready to name its instrument; a network is loaded at the first reading.

    Raises `CheckpointError` or `DetectorError` for an entry that cannot work; `MissingInstrument` where files are not here.
    """
    if entry.kind in FORMULAS:
        from audit.meters.formulas import Formula

        return Formula(entry)
    if entry.kind == "lpips":
        from audit.meters.lpips import Lpips

        return Lpips(entry, device)
    if entry.kind == "clip-score":
        from audit.meters.clip_score import ClipScore

        return ClipScore(entry, device)
    from audit.meters.features import Features

    return Features(entry, device)
