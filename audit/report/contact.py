"""Choose the pictures that a report shows of each cell, and stand-ins for those that it must not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from audit.records import Outcome
from audit.report import pictures
from audit.report.view import Index
from audit.report.words import plain
from audit.storage.pictures import Purged
from audit.verdict.results import RunResult, Sample

PER_CELL = 12
MAX_PICTURES = 360  # of one report, so that a run of many cells stays one file that opens quickly
OUTCOMES = (Outcome.HIT.value, Outcome.CLEAR.value, Outcome.UNASSESSED.value)
OUTCOME_SYMBOLS: Mapping[str, str] = {"hit": "●", "clear": "○", "unassessed": "?"}


Pictures = Callable[[Sample], bytes | None]


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """One picture on a sheet: a data URI, or None with the word that stands in its place."""

    outcome: str
    symbol: str
    caption: str
    alt: str
    uri: str | None
    placeholder: str | None
    detail: str | None  # why it is unassessed


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The pictures of one cell."""

    title: str
    summary: str
    blurred: bool
    thumbnails: tuple[Thumbnail, ...]


def contact_sheets(
    result: RunResult, read: Pictures, *, show_sensitive: bool = False, per_cell: int = PER_CELL
) -> tuple[Sheet, ...]:
    """Return one sheet per cell that has samples, at most `per_cell` pictures each, hits first.

    Pictures of sensitive concepts are blurred unless `show_sensitive`. Reading errors give a placeholder.
    """
    index = Index(result)
    cells: dict[int, dict[int, Sample]] = {}
    for sample in result.samples:
        cells.setdefault(sample.cell_id, {}).setdefault(sample.case_no, sample)
    room = max(1, min(per_cell, MAX_PICTURES // max(1, len(cells))))
    names = sensitive_names(index)
    order = {cell_id: place for place, cell_id in enumerate(index.cells)}
    return tuple(
        _sheet(index, cell_id, choose(list(cells[cell_id].values()), room), read, None if show_sensitive else names)
        for cell_id in sorted(cells, key=lambda cell_id: (order.get(cell_id, len(order)), cell_id))[:MAX_PICTURES]
    )


def sensitive_names(index: Index) -> frozenset[str]:
    """Return the concepts whose pictures must be blurred: marked in the spec, or in any sample of theirs."""
    concepts = index.result.spec.get("concepts") or ()
    names = {str(c.get("name")) for c in concepts if isinstance(c, Mapping) and c.get("sensitive")}
    cells = {index.cells.get(sample.cell_id) for sample in index.result.samples if sample.sensitive}
    return frozenset(names | {cell.concept for cell in cells if cell is not None})


def is_sensitive(index: Index, sample: Sample, names: frozenset[str]) -> bool:
    """Return whether a picture must be blurred: it is marked so, its concept is among `names`, or its cell is unknown."""
    cell = index.cells.get(sample.cell_id)
    return sample.sensitive or cell is None or cell.concept in names or cell.subject in names


def choose(samples: list[Sample], room: int) -> list[Sample]:
    """Return up to `room` samples, an equal share per outcome while there are enough, hits first and otherwise in order."""
    queues = {outcome: [s for s in samples if s.outcome == outcome] for outcome in OUTCOMES}
    queues[""] = [s for s in samples if s.outcome not in OUTCOMES]
    share = dict.fromkeys(queues, 0)
    while sum(share.values()) < min(room, len(samples)):
        for outcome, queue in queues.items():
            if share[outcome] < len(queue) and sum(share.values()) < room:
                share[outcome] += 1
    return [sample for outcome, queue in queues.items() for sample in queue[: share[outcome]]]


def _sheet(index: Index, cell_id: int, chosen: list[Sample], read: Pictures, names: frozenset[str] | None) -> Sheet:
    """Return one cell's sheet; pictures that concern `names` are blurred, None blurs nothing."""
    hidden = [names is not None and is_sensitive(index, sample, names) for sample in chosen]
    thumbnails = tuple(_thumbnail(sample, read, hide) for sample, hide in zip(chosen, hidden, strict=True))
    counts = [f"{sum(s.outcome == outcome for s in chosen)} {outcome}" for outcome in OUTCOMES]
    planned = index.cells[cell_id].planned if cell_id in index.cells else len(chosen)
    summary = f"{len(chosen)} of {planned} pictures: {', '.join(counts)}"
    return Sheet(plain(index.cell_name(cell_id)), summary, any(hidden), thumbnails)


def _thumbnail(sample: Sample, read: Pictures, hide: bool) -> Thumbnail:
    uri, placeholder = _picture(sample, read, hide)
    outcome = sample.outcome if sample.outcome in OUTCOMES else Outcome.UNASSESSED.value
    caption = f"#{sample.case_no}"
    if sample.score is not None:
        caption += f" · {sample.score:.2f}"
    kind = f"picture {placeholder}" if placeholder else "blurred picture" if hide else "picture"
    return Thumbnail(
        outcome=outcome,
        symbol=OUTCOME_SYMBOLS[outcome],
        caption=caption,
        alt=f"Case {sample.case_no}, {outcome}: {kind}",
        uri=uri,
        placeholder=placeholder,
        detail=plain(sample.reason, 120) if sample.reason else None,
    )


def _picture(sample: Sample, read: Pictures, hide: bool) -> tuple[str | None, str | None]:
    """Return a data URI, or None and the word for the placeholder. Whatever fails, no original bytes pass through here."""
    try:
        data = read(sample)
    except Purged:
        return None, "purged"
    except Exception:  # journal, object store and Parquet reader: one picture is not worth the report
        return None, "unreadable"
    if data is None:
        return None, "missing"
    try:
        jpeg = pictures.blurred_thumbnail(data) if hide else pictures.thumbnail(data)
        return pictures.data_uri(jpeg), None
    except Exception:  # Pillow raises nearly anything on hostile bytes, and the original must never be shown instead
        return None, "withheld" if hide else "unreadable"
