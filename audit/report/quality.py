"""The section on picture quality: what the defences change besides the rate, metric by metric."""

from __future__ import annotations

from audit.report.view import Column, Index, Section, Table
from audit.report.words import NOT_AVAILABLE, count, number, plain
from audit.spec.benign import PICTURE_CHECK
from audit.verdict.results import QualityRow

BASELINES = {
    "backbone": "the same case without any defence",
    "unguarded": "the same case without the guards",
    "reference": "its reference image",
    "prompt": "its prompt",
}
DIRECTIONS = {
    "psnr": "higher is closer (dB)",
    "ssim": "higher is closer",
    "clip-score": "higher fits better",
    "gmsd": "lower is closer",
    "lpips": "lower is closer",
    "frechet": "lower is closer",
    "cmmd": "lower is closer",
}


def section(index: Index) -> Section | None:
    """Return picture quality by cell, or None when the spec asks for none."""
    # Its vectors are compared as sets by the picture check, which has a section of its own.
    silent = {entry["instrument"] for entry in index.result.quality_instruments if not entry.get("metrics")}
    rows = tuple(row for row in index.result.quality if row.instrument not in silent or row.instrument != PICTURE_CHECK)
    if not rows:
        return None
    sentences = (
        "A low rate can also come from broken pictures. These numbers say how far the pictures of a cell are from what "
        "they are compared with; each is measured against the same case without any defence, without its guards, "
        "against its reference image or its prompt. None of them decides the verdict.",
        "Mean and median are over single pictures; a distance is one number between both sets of pictures, and "
        "compares only with distances over as many pictures by the same network.",
    )
    unassessed = [row for row in rows if row.unassessed]
    bullets = tuple(
        dict.fromkeys(plain(f"{row.metric}, {row.instrument}: {row.reason}", 300) for row in unassessed if row.reason)
    )[:8]
    return Section("quality", "Picture quality", sentences, bullets, tables=(_table(index, rows),))


def _table(index: Index, rows: tuple[QualityRow, ...]) -> Table:
    columns = (
        Column("Cell"),
        Column("Metric"),
        Column("Against"),
        Column("Mean or distance", "number"),
        Column("Median", "number", minor=1),
        Column("Assessed", "number"),
        Column("Unassessed", "number"),
        Column("Reads as", minor=2),
        Column("Instrument", minor=3),
        Column("Weights", "code", minor=9),
    )
    lines = tuple(
        (
            plain(index.cell_name(row.cell_id)),
            plain(row.metric),
            BASELINES.get(row.baseline, plain(row.baseline)),
            shown(row),
            number(row.median, 3) if row.median is not None else NOT_AVAILABLE,
            count(row.assessed),
            count(row.unassessed),
            DIRECTIONS.get(row.metric, ""),
            plain(row.instrument),
            plain(row.weights_sha256[:8]) or "none",
        )
        for row in rows
    )
    return Table("Picture quality by cell", columns, lines, heads=2, stack=True)


def shown(row: QualityRow) -> str:
    """Return the number of a metric, with how many pictures equal their baseline where that makes a value infinite."""
    value = row.value if row.kind == "features" else row.mean
    text = number(value, 3) if value is not None else NOT_AVAILABLE
    return f"{text} ({count(row.infinite)} equal)" if row.infinite else text
