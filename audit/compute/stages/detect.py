"""Measure the pictures of one generate unit with one instrument; scores are stored raw."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from audit.compute.stages.batching import Made, Picture, Row, run_batches
from audit.compute.stages.overlap import Ahead
from audit.corpus.images import decode_stored
from audit.instruments.detectors.answers import measurements
from audit.instruments.detectors.base import Detector
from audit.records import LabelScore, Status
from audit.storage.journal import SCHEMAS, Journal


def run_detect(generate: str, detector: Detector, journal: Journal, batch_size: int, threads: int = 0) -> Made:
    """Return one row per existing picture of a generate unit, and one with status 'error' per picture that failed to be made.

    The latter keep the unit failed, so that a resumed run measures these pictures once they have been made. Pictures
    that no retry will make (degenerate, unreadable, blocked) have no row: their own status already says why. `threads`
    decode the next batch while one is measured.
    """
    pictures: list[Picture] = journal.read("generate", generate, ["image_id", "status", "image"]).to_pylist()
    ready = [row for row in pictures if row["status"] == Status.OK.value]
    decoded = Ahead(ready, lambda case: decode_stored(case["image"]["bytes"]), batch_size, threads)
    identifier = detector.instrument.instrument_id

    def row(case: Picture, status: Status, error: str | None, scores: list[Row] | None) -> Row:
        """Return the journal's row of one picture."""
        return {
            "image_id": case["image_id"],
            "status": status.value,
            "error": error,
            "scores": scores,
            "instrument_id": identifier,
        }

    def work(batch: Sequence[Picture]) -> list[Row]:
        """Measure one batch, and return a row for each picture."""
        measured = measurements(detector.measure(decoded.take(batch)), len(batch), detector.instrument.labels)
        return [
            row(case, Status.ERROR, result.error, None)
            if result.scores is None
            else row(case, Status.OK, None, [_score(score) for score in result.scores])
            for case, result in zip(batch, measured, strict=True)
        ]

    rows = run_batches(ready, batch_size, work, lambda case, error: row(case, Status.ERROR, error, None))
    failed = (case for case in pictures if case["status"] == Status.ERROR.value)
    rows += [row(case, Status.ERROR, "the picture could not be made", None) for case in failed]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["detect"]), None


def _score(score: LabelScore) -> Row:
    x, y, w, h = score.box or (None, None, None, None)
    return {"label": score.label, "score": score.score, "x": x, "y": y, "w": w, "h": h}
