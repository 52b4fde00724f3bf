"""The labels that a decision rests on: in the bundle as they were counted, and counted again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from audit.errors import EvidenceError
from audit.evidence.calibration import label_rows, miscounted
from audit.labels.calibrating import calibrations
from audit.labels.documents import Judge, Label, LabelledPicture, Rater, StoredLabels
from audit.labels.pool import judges_of
from audit.labels.stored import store
from audit.storage.journal import Journal
from tests.evidence.bundles import PHRASE, Audit

LABELLED = "2026-01-02T03:04:05Z"


def labelled(count: int, judge: Judge) -> StoredLabels:
    """Labels of two raters of whom the second cannot tell in the last picture."""
    pictures = [
        LabelledPicture(
            id=f"{n:016x}", concept="ring", pixel_sha256=f"{n:064x}", domain="generated", sample="random", defended=True,
            outcomes={"judge": "hit" if n % 2 else "clear"},
            labels=((Label.SHOWS if n % 2 else Label.DOES_NOT), Label.CANNOT_TELL if n == count - 1 else
                    (Label.SHOWS if n % 2 else Label.DOES_NOT)),
        )
        for n in range(count)
    ]  # fmt: skip
    raters = tuple(Rater(name=name, started_at=LABELLED, saved_at=LABELLED) for name in ("A", "B"))
    return StoredLabels.new(
        run_id="run-1",
        task="0" * 64,
        exported_at=LABELLED,
        raters=raters,
        strata=(),
        judges=(judge,),
        pictures=tuple(pictures),
    )


def test_counts_of_calibration_follow_from_the_labels(tmp_path: Path) -> None:
    audit, journal = Audit(), Journal(str(tmp_path / "journal"))
    audit.write(journal)
    (judge,) = judges_of(journal, "run-1")
    store(journal, labelled(40, judge))
    (found,) = calibrations(journal, "run-1")
    rows = label_rows(journal, [found]).to_pylist()
    assert len(rows) == 40 and PHRASE not in json.dumps(rows)
    assert list(miscounted(rows, [found])) == []
    better = dataclasses.replace(found, found=found.positives)
    (problem,) = miscounted(rows, [better])
    assert "(20, 20, 21, 20)" in problem or "follow from the labels" in problem
    assert "not in the bundle" in next(miscounted(rows[1:2], [dataclasses.replace(found, sha256="0" * 64)]))
    with pytest.raises(EvidenceError, match="are not there any more"):
        label_rows(journal, [dataclasses.replace(found, sha256="0" * 64)])
