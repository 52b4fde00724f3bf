"""Instruments and counting rules of a plan. An instrument whose files are missing is planned with, but cannot be run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from audit.identity import canonical, int_key
from audit.plan.resolved import Measuring, Missing, Resolved, absent_digest
from audit.records import Instrument, QualityInstrument
from audit.spec.benign import PICTURE_CHECK
from audit.spec.document import Spec
from audit.spec.quality import QualitySpec
from audit.spec.sections import DetectorSpec


def instruments_of(resolved: Resolved) -> list[Instrument]:
    """Return the instrument of every detector, in the spec's order."""
    return [measuring.instrument for measuring in _measuring(resolved)]


def rules_of(resolved: Resolved) -> list[Mapping[str, object]]:
    """Return the counting rules of every detector, in the spec's order."""
    return [rule for measuring in _measuring(resolved) for rule in measuring.rules]


def quality_of(resolved: Resolved) -> list[QualityInstrument]:
    """Return every quality instrument. The picture check's own one gives a test's result and no metrics."""
    entries = {entry.name: entry for entry in resolved.spec.quality_entries()}
    instruments = []
    for name, entry in resolved.quality.items():
        instrument = _absent_quality(entries[name]) if isinstance(entry, Missing) else entry
        instruments.append(dataclasses.replace(instrument, metrics=()) if name == PICTURE_CHECK else instrument)
    return instruments


def _measuring(resolved: Resolved) -> Sequence[Measuring]:
    entries = {entry.name: entry for entry in resolved.spec.detectors}
    return [
        _absent_detector(entries[name], resolved.spec) if isinstance(known, Missing) else known
        for name, known in resolved.detectors.items()
    ]


def _absent_detector(entry: DetectorSpec, spec: Spec) -> Measuring:
    """Return a stand-in for a detector whose files are missing, taking it to know every subject by its name."""
    subjects = [subject.name for subject in spec.sought()]
    labels = {subject: entry.labels.get(subject, (subject,)) for subject in subjects}
    described = {"detector": entry.model_dump(mode="json"), "subjects": subjects}
    instrument = Instrument(
        instrument_id=int_key(described),
        detector=entry.name,
        kind=entry.kind,
        version="",
        package="",
        weights_sha256=absent_digest(canonical(described)),
        preprocessing="",
        labels=tuple(dict.fromkeys(label for known in labels.values() for label in known)),
        score_floor=0.0,
        threshold=entry.threshold,
        parameters="{}",
    )
    threshold = spec.gate.thresholds.get(entry.name, entry.threshold)
    rules = [
        {"detector": entry.name, "subject": subject, "label": label, "threshold": threshold}
        for subject, known in labels.items()
        for label in known
    ]
    return Measuring(instrument, rules)


def _absent_quality(entry: QualitySpec) -> QualityInstrument:
    described = {"quality": entry.model_dump(mode="json")}
    return QualityInstrument(
        instrument_id=int_key(described),
        instrument=entry.name,
        kind=entry.kind,
        version="",
        package="",
        weights_sha256=absent_digest(canonical(described)),
        preprocessing="",
        metrics=(entry.kind,),
        parameters="{}",
    )
