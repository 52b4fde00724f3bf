"""Quality instruments: pictures in, a number or a feature vector out. Torch is imported when measuring only."""

from __future__ import annotations

from audit.instruments.quality.base import Meter, Reading, Task
from audit.spec.quality import FORMULAS, QualitySpec

__all__ = ["Meter", "Reading", "Task", "build"]


def build(entry: QualitySpec, device: str = "cpu") -> Meter:
    """The meter of a spec entry, ready to name its instrument; a network is loaded at the first reading.

    Raises `CheckpointError` or `DetectorError` for an entry that cannot work; `MissingInstrument` where files are not here.
    """
    if entry.kind in FORMULAS:
        from audit.instruments.quality.similarity import Formula

        return Formula(entry)
    if entry.kind == "lpips":
        from audit.instruments.quality.lpips import Lpips

        return Lpips(entry, device)
    if entry.kind == "clip-score":
        from audit.instruments.quality.clip_score import ClipScore

        return ClipScore(entry, device)
    from audit.instruments.quality.features import Features

    return Features(entry, device)
