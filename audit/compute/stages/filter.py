"""Rule on the cases of one generate unit with one filter. The pictures themselves stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from audit.compute.stages.attacked import Refused, prompt_of
from audit.compute.stages.batching import Made, Picture, Row, run_batches
from audit.compute.stages.overlap import Ahead
from audit.corpus.images import decode_stored
from audit.diffusion.placeholder_tokens import Vocabulary
from audit.filters.protocol import Filter, PictureFilter, PromptFilter, Ruling
from audit.plan.identities import FilterIdentity
from audit.records import Case, Status
from audit.storage.journal import SCHEMAS, Journal

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Filtering:
    """A filter with its number in the plan, on the cases of one generate unit."""

    identity: FilterIdentity
    filter: Filter
    filter_id: int
    cases: Sequence[Case]


def run_filter(filtering: Filtering, journal: Journal, vocabulary: Vocabulary, batch_size: int, threads: int) -> Made:
    """Return one row per case of a generate unit, in plan order: blocked or not, with what the ruling rests on.

    A case on which the filter fails has status 'error' and no ruling, and a picture that is none keeps its own status. A
    filter of prompts reads no picture, so it rules on a case whether or not its picture could be made. `threads` decode the
    next pictures while some are read.
    """
    rows = (
        _of_prompts(filtering, filtering.filter, journal, vocabulary, batch_size)
        if isinstance(filtering.filter, PromptFilter)
        else _of_pictures(filtering, filtering.filter, journal, batch_size, threads)
    )
    return pa.Table.from_pylist([rows[case.image_id] for case in filtering.cases], schema=SCHEMAS["filter"]), None


def _of_prompts(
    filtering: Filtering, filter: PromptFilter, journal: Journal, vocabulary: Vocabulary, batch_size: int
) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    ready = []
    for case in filtering.cases:
        prompt = prompt_of(case, journal, vocabulary)
        if case.problem:
            rows[case.image_id] = _row(filtering, case.image_id, Status.UNREADABLE, case.problem)
        elif isinstance(prompt, Refused):
            rows[case.image_id] = _row(filtering, case.image_id, prompt.status, prompt.reason)
        else:
            ready.append((case.image_id, prompt))
    ruled = _ruled(filtering, ready, batch_size, lambda batch: filter.rule([prompt for _, prompt in batch]))
    return rows | ruled


def _of_pictures(
    filtering: Filtering, filter: PictureFilter, journal: Journal, batch_size: int, threads: int
) -> dict[int, Row]:
    pictures: list[Picture] = journal.read(
        "generate", filtering.identity.generate, ["image_id", "status", "error", "image"]
    ).to_pylist()
    rows = {
        picture["image_id"]: _row(filtering, picture["image_id"], Status(picture["status"]), picture["error"])
        for picture in pictures
    }
    ready = [(picture["image_id"], picture) for picture in pictures if picture["status"] == Status.OK]
    decoded = Ahead(ready, lambda one: decode_stored(one[1]["image"]["bytes"]), batch_size, threads)
    return rows | _ruled(filtering, ready, batch_size, lambda batch: filter.rule(decoded.take(batch)))


def _ruled(
    filtering: Filtering,
    ready: Sequence[tuple[int, T]],
    batch_size: int,
    rule: Callable[[Sequence[tuple[int, T]]], Sequence[Ruling]],
) -> dict[int, Row]:
    """Return the rows of cases that the filter can read, by picture."""

    def work(batch: Sequence[tuple[int, T]]) -> list[Row]:
        """Return the rulings on one batch as rows."""
        rulings = rule(batch)
        if len(rulings) != len(batch):
            raise RuntimeError(f"{len(rulings)} rulings on {len(batch)} cases")
        return [_ruling(filtering, image, ruling) for (image, _), ruling in zip(batch, rulings, strict=True)]

    def fail(one: tuple[int, T], error: str) -> Row:
        return _row(filtering, one[0], Status.ERROR, f"filter {filtering.filter.name}: {error}")

    rows = run_batches(ready, batch_size, work, fail)
    return {image: row for (image, _), row in zip(ready, rows, strict=True)}


def _ruling(filtering: Filtering, image: int, ruling: Ruling) -> Row:
    if not isinstance(ruling, Ruling) or not isinstance(ruling.blocked, bool):
        raise TypeError(f"a value of type {type(ruling).__name__} instead of a ruling")
    report = ruling.as_json(filtering.filter.name, filtering.filter.version)
    return {**_row(filtering, image, Status.OK, None), "blocked": ruling.blocked, "report": report}


def _row(filtering: Filtering, image: int, status: Status, error: str | None) -> Row:
    return {
        "image_id": image,
        "status": status.value,
        "error": error,
        "blocked": None,
        "report": None,
        "filter_id": filtering.filter_id,
    }
