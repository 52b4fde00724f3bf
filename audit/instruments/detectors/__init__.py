"""Detectors: pictures in, raw scores out, or the reason why there is none. Torch is imported when measuring only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from audit.errors import DetectorError, SpecError
from audit.instruments.detectors.base import Detector, check_threshold, require_named
from audit.instruments.detectors.method import DETECTORS
from audit.methods.parameters import parse_parameters
from audit.methods.registry import one_of
from audit.records import Instrument
from audit.spec.document import Spec
from audit.spec.sections import Concept, DetectorSpec

__all__ = ["Detector", "build", "check_threshold", "counting_rules", "instrument_and_rules"]


class CountingRule(TypedDict):
    """A label of a detector that means a subject, with the least score that counts."""

    detector: str
    subject: str
    label: str
    threshold: float


def build(detector_spec: DetectorSpec, concepts: Sequence[Concept], device: str = "cpu") -> Detector:
    """Return the detector of a spec entry, ready to name its instrument; the first measurement loads the network.

    `concepts` are the subjects that the detectors have to tell apart (`Spec.sought()`). `device` is a torch device.
    Raises `SpecError` for an unknown kind, `DetectorError` or `CheckpointError` for anything in the entry that cannot work.
    """
    kind, where = detector_spec.kind, f"detectors.{detector_spec.name}"
    try:
        method = DETECTORS.find(kind, where)
    except KeyError:
        raise SpecError(
            f"kind: Input should be {one_of(DETECTORS.names())}", where=where, next_step="mend this field"
        ) from None
    entry = DETECTORS.foreign(kind)
    if entry is not None:
        parse_parameters(method.parameters, detector_spec.parameters, f"detector {kind}", where)
    built: Detector = method.function()(detector_spec, concepts, str(device))  # type: ignore[assignment]
    if entry is not None:
        require_named(getattr(built, "instrument", None), Instrument, entry, f"detector {kind}", where)
    return built


def instrument_and_rules(entry: DetectorSpec, spec: Spec) -> tuple[Instrument, list[CountingRule]]:
    """Return the instrument of an entry, and its counting rules under the gate's thresholds; nothing is loaded.

    Raises `DetectorError` or `CheckpointError` for a detector that cannot answer this spec.
    """
    built = build(entry, spec.sought(), "cpu")
    own = counting_rules(built, [subject.name for subject in spec.subjects()])
    own += counting_rules(built, [name for name in spec.benign_subjects() if knows(built, name)])
    threshold = spec.gate.thresholds.get(entry.name, built.instrument.threshold)
    check_threshold(built.instrument, threshold)
    return built.instrument, [{**rule, "threshold": threshold} for rule in own]


def knows(detector: Detector, subject: str) -> bool:
    """Return whether one of the detector's labels means `subject`."""
    try:
        return bool(detector.counted_labels(subject))
    except DetectorError:
        return False


def counting_rules(
    detector: Detector, subjects: Sequence[str], *, threshold: float | None = None
) -> list[CountingRule]:
    """Return the rules by which scores count: one of `label` at or above `threshold` is a hit on `subject`.

    `threshold` overrides the detector's own, as a gate policy may. Raises `DetectorError` for a threshold below the
    instrument's score floor and for a subject that no label stands for.
    """
    instrument = detector.instrument
    limit = instrument.threshold if threshold is None else threshold
    check_threshold(instrument, limit)
    return [
        {"detector": instrument.detector, "subject": subject, "label": label, "threshold": limit}
        for subject in dict.fromkeys(subjects)
        for label in detector.counted_labels(subject)
    ]
