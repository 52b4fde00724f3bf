"""Choose the pictures that a report shows of each cell, and stand-ins for those that it must not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from audit.progress.steps import counted
from audit.records import Outcome
from audit.report.embedding import Embedder, Pictures
from audit.report.view import Index
from audit.report.words import plain
from audit.verdict.results import RunResult, Sample

PER_CELL = 12
MAX_PICTURES = 360  # of one report, so that a run of many cells stays one file that opens quickly
ROOM = 1_000_000  # bytes that they share
OUTCOMES = (Outcome.HIT.value, Outcome.CLEAR.value, Outcome.BLOCKED.value, Outcome.UNASSESSED.value)
OUTCOME_SYMBOLS: Mapping[str, str] = {"hit": "●", "clear": "○", "blocked": "■", "unassessed": "?"}


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
    beside: Thumbnail | None = None  # a picture to compare it with


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The pictures of one cell."""

    title: str
    summary: str
    blurred: bool
    thumbnails: tuple[Thumbnail, ...]

    @property
    def bytes(self) -> int:
        """Return the size of its pictures before they were encoded, about."""
        return sum(len(picture.uri or "") for picture in self.pictures) * 3 // 4

    @property
    def pictures(self) -> tuple[Thumbnail, ...]:
        """Return its pictures, those that stand beside others among them."""
        return tuple(picture for one in self.thumbnails for picture in (one, one.beside) if picture is not None)


def contact_sheets(
    result: RunResult,
    read: Pictures,
    *,
    show_sensitive: bool = False,
    per_cell: int = PER_CELL,
    room: int = ROOM,
) -> tuple[Sheet, ...]:
    """Return one sheet per cell that has samples, at most `per_cell` pictures each, hits first.

    All pictures share `room` bytes, at most `ROOM`.

    Pictures of sensitive concepts are blurred unless `show_sensitive`. Reading errors give a placeholder.
    """
    index = Index(result)
    cells: dict[int, dict[int, Sample]] = {}
    for sample in result.samples:
        cells.setdefault(sample.cell_id, {}).setdefault(sample.case_no, sample)
    number = max(1, min(per_cell, MAX_PICTURES // max(1, len(cells))))
    names = sensitive_names(index)
    order = {cell_id: place for place, cell_id in enumerate(index.cells)}
    chosen = {
        cell_id: choose(list(cells[cell_id].values()), number)
        for cell_id in sorted(cells, key=lambda cell_id: (order.get(cell_id, len(order)), cell_id))[:MAX_PICTURES]
    }
    embed = Embedder.sharing(read, sum(map(len, chosen.values())), min(room, ROOM))
    return tuple(
        _sheet(index, cell_id, samples, embed, None if show_sensitive else names)
        for cell_id, samples in counted(chosen.items(), "contact sheets", len(chosen), "cells")
    )


def sensitive_names(index: Index) -> frozenset[str]:
    """Return the concepts whose pictures must be blurred: marked in the spec, or in any picture of theirs."""
    concepts = index.result.spec.get("concepts") or ()
    names = {str(c.get("name")) for c in concepts if isinstance(c, Mapping) and c.get("sensitive")}
    cells = {index.cells.get(sample.cell_id) for sample in index.result.samples if sample.sensitive}
    names |= {case.concept for case in index.result.pictured if case.sensitive}
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


def _sheet(index: Index, cell_id: int, chosen: list[Sample], embed: Embedder, names: frozenset[str] | None) -> Sheet:
    """Return one cell's sheet; pictures that concern `names` are blurred, None blurs nothing."""
    hidden = [names is not None and is_sensitive(index, sample, names) for sample in chosen]
    thumbnails = tuple(_thumbnail(sample, embed, hide) for sample, hide in zip(chosen, hidden, strict=True))
    numbers = {outcome: sum(s.outcome == outcome for s in chosen) for outcome in OUTCOMES}
    counts = [f"{number} {outcome}" for outcome, number in numbers.items() if number or outcome != Outcome.BLOCKED]
    planned = index.cells[cell_id].planned if cell_id in index.cells else len(chosen)
    summary = f"{len(chosen)} of {planned} pictures: {', '.join(counts)}"
    return Sheet(plain(index.cell_name(cell_id)), summary, any(hidden), thumbnails)


def _thumbnail(sample: Sample, embed: Embedder, hide: bool) -> Thumbnail:
    uri, placeholder = embed(sample, hide=hide)
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
