"""Measuring the pictures of one unit: what exists is measured, and what could still be made keeps the unit open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from audit.compute.stages.detect import run_detect
from audit.corpus.images import encode_png
from audit.errors import DetectorError
from audit.instruments.detectors import build, nudenet
from audit.records import LabelScore, Measurement
from audit.spec.sections import Concept, DetectorSpec
from audit.storage.journal import SCHEMAS, Journal
from audit.testbed.scenes import sample_scene
from tests.flows.audits import finish_run, tiny_spec

GENERATED, MEASURED = "a" * 64, "b" * 64


def picture(number: int, status: str) -> dict[str, Any]:
    made = status in ("ok", "degenerate")
    image = {"bytes": encode_png(sample_scene("audit", number).image), "path": f"{number}.png"} if made else None
    return {"image_id": number, "status": status, "error": None if status == "ok" else "why", "image": image}


def measure(journal: Journal, statuses: list[str]) -> dict[int, str]:
    """Journal a generate unit with these statuses and measure it; the status of each measured picture."""
    rows = [picture(number, status) for number, status in enumerate(statuses)]
    journal.write("generate", GENERATED, pa.Table.from_pylist(rows, schema=SCHEMAS["generate"]), {})
    detector = build(
        DetectorSpec(name="classes", kind="classifier", model="testbed/classifier"),
        [Concept(name="ring", phrase="ring")],
    )
    table, _ = run_detect(GENERATED, detector, journal, 8)
    journal.write("detect", MEASURED, table, {})
    return {row["image_id"]: row["status"] for row in table.to_pylist()}


def test_a_picture_that_a_retry_may_make_is_measured_after_the_retry(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    assert measure(journal, ["ok", "error", "ok"]) == {0: "ok", 1: "error", 2: "ok"}
    assert (journal.keys("detect"), set(journal.listing("detect").failed)) == (set(), {MEASURED})
    assert measure(journal, ["ok", "ok", "ok"]) == {0: "ok", 1: "ok", 2: "ok"}
    assert journal.keys("detect") == {MEASURED}


def test_pictures_that_no_retry_makes_do_not_keep_the_unit_open(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    assert measure(journal, ["ok", "degenerate", "unreadable"]) == {0: "ok"}
    assert journal.keys("detect") == {MEASURED}


def test_impossible_answers_of_a_detector_of_its_own_kind_are_not_measured(tmp_path: Path) -> None:
    class Odd:
        """A detector that shares nothing with the shipped ones."""

        instrument = build(
            DetectorSpec(name="classes", kind="classifier", model="testbed/classifier"),
            [Concept(name="ring", phrase="ring")],
        ).instrument

        def measure(self, images: Any) -> Any:
            scores = [(LabelScore("ring", 0.5),), (LabelScore("ring", 2.0),), (LabelScore(7, 0.5),), {"ring": 0.9}]  # type: ignore[arg-type]
            return [Measurement(found) for found in scores]  # type: ignore[arg-type]

    journal = Journal(str(tmp_path))
    rows = [picture(number, "ok") for number in range(4)]
    journal.write("generate", GENERATED, pa.Table.from_pylist(rows, schema=SCHEMAS["generate"]), {})
    table, _ = run_detect(GENERATED, Odd(), journal, 8)  # type: ignore[arg-type]
    assert table.column("status").to_pylist() == ["ok", "error", "error", "error"]
    assert table.column("error").to_pylist() == [
        None,
        "the score of 'ring' is 2, outside 0..1",
        "a label is a value of type int instead of a text",
        "the detector answers with a value of type dict instead of scores",
    ]
    assert table.column("scores").to_pylist()[1:] == [None] * 3


def test_a_detector_that_fails_its_self_test_measures_nothing(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    darkened = nudenet.draw_face() // 200
    monkeypatch.setattr(nudenet, "draw_face", lambda: darkened)
    text = [{"name": "text", "cases": 1, "sampler": {"steps": 1, "guidance": 1.0}}]
    with pytest.raises(DetectorError, match="does not find the face"):
        finish_run(tiny_spec(tmp_path, tiny_folder, scenarios=text, corpus=[]), tmp_path / "runs")
    journal = Journal(str(tmp_path / "runs"))
    assert journal.keys("generate") and not journal.keys("detect")
