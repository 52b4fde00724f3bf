"""The labels behind a decision's calibrations inside a bundle, and the counts again from them.

A row is one picture of the simple random sample as both raters labelled it, named by the digest of its pixels. The phrase that
the raters were asked about is left out: it may be one that a bundle must not hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from audit.errors import EvidenceError
from audit.files import Document
from audit.identity import key
from audit.labels.calibrating import counts
from audit.labels.documents import LabelledPicture
from audit.labels.stored import stored
from audit.storage.journal import Journal
from audit.verdict.calibration import Calibration

WHERE = "data/calibration/labels.parquet"
_SCHEMA = pa.schema(
    [
        ("labels_sha256", pa.string()),  # of the stored labels
        ("run_id", pa.string()),  # that the pictures are of
        ("judges", pa.list_(pa.string())),  # digests of the judges that the labels speak of
        ("raters", pa.list_(pa.string())),
        ("labelled_at", pa.string()),
        ("picture", pa.string()),  # JSON
    ]
)
Row = Document


def label_rows(journal: Journal, calibrations: Sequence[Calibration]) -> pa.Table:
    """Return every label that a calibration was counted from. Raises `EvidenceError` for one whose labels are gone."""
    if not calibrations:
        return _SCHEMA.empty_table()
    rows = [
        {
            "labels_sha256": digest,
            "run_id": labels.run_id,
            "judges": [key(judge.model_dump(mode="json")) for judge in labels.judges],
            "raters": [rater.name for rater in labels.raters],
            "labelled_at": labels.labelled_at,
            "picture": json.dumps(picture.model_dump(mode="json"), sort_keys=True),
        }
        for digest, labels in stored(journal)
        for picture in labels.pictures
        if picture.sample == "random"
    ]
    used: set[str] = set()
    for calibration in calibrations:
        of_run = _used(rows, calibration)
        if of_run is None:
            raise EvidenceError(
                f"the labels that {calibration.detector} was calibrated by for {calibration.concept!r} are not there any more",
                next_step="restore them, or decide anew: erasure-audit gate RUN_ID",
            )
        used |= {row["labels_sha256"] for row in of_run}
    return pa.Table.from_pylist([row for row in rows if row["labels_sha256"] in used], _SCHEMA)


def miscounted(rows: Sequence[Row], calibrations: Iterable[Calibration]) -> Iterator[str]:
    """Yield a sentence for each calibration whose counts do not follow from the labels."""
    for calibration in calibrations:
        name = f"{calibration.detector} for {calibration.concept!r} on {calibration.domain} pictures"
        of_run = _used(rows, calibration)
        if of_run is None:
            yield f"the labels that {name} was calibrated by are not in the bundle"
            continue
        counted = counts(map(_picture, of_run), calibration.detector)
        stated = (calibration.positives, calibration.found, calibration.negatives, calibration.cleared)
        if counted != stated:
            yield f"{name} has the counts {stated}, and {counted} follow from the labels"
        if min(row["labelled_at"] for row in of_run) != calibration.labelled_at:
            yield f"{name} was labelled at another time than {calibration.labelled_at}"


def _used(rows: Sequence[Row], calibration: Calibration) -> list[Row] | None:
    """Return the rows of the run whose labels have the digest of the calibration; None when there is none."""
    for run_id, judge in sorted({(row["run_id"], judge) for row in rows for judge in row["judges"]}):
        of_judge = (row for row in rows if row["run_id"] == run_id and judge in row["judges"])
        of_run = [row for row in of_judge if _answers(_picture(row), calibration)]
        digests = sorted({row["labels_sha256"] for row in of_run})
        together = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        if of_run and together == calibration.sha256:
            return of_run
    return None


def _answers(picture: LabelledPicture, calibration: Calibration) -> bool:
    return (picture.concept, picture.domain) == (calibration.concept, calibration.domain) and picture.outcomes.get(
        calibration.detector, "unassessed"
    ) != "unassessed"


def _picture(row: Row) -> LabelledPicture:
    return LabelledPicture.model_validate_json(row["picture"])
