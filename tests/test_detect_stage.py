"""Measuring the pictures of one unit: what exists is measured, and what could still be made keeps the unit open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from audit.detectors import build
from audit.images import encode_png
from audit.journal import SCHEMAS, Journal
from audit.records import Unit
from audit.spec import Concept, DetectorSpec
from audit.stages.detect import run_detect
from audit.testbed.scenes import sample_scene

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
    unit = Unit("detect", MEASURED, (GENERATED,), {"generate": GENERATED}, len(rows))
    table = run_detect(unit, detector, journal, 8)
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
