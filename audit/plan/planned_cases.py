"""Collect the cases of a plan, cell by cell, into the stored table; only what compares cells later stays in memory."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Iterator, Sequence

from audit.plan.stored_tables import StoredTable, TableWriter
from audit.plan.tables import CASES_SCHEMA, FIRST_CASE_COLUMNS
from audit.records import Attempt

GROUP_ROWS = 8192  # cases in a row group of the stored table: a worker decodes one or two to read those of a unit


@dataclasses.dataclass(frozen=True)
class CellCases:
    """The pictures of one cell's cases, a digest of the cases' inputs in their order, and whether they have regions."""

    images: Sequence[int]
    inputs: bytes
    regions: bool

    def has_inputs_of(self, other: CellCases) -> bool:
        """Return whether both cells have the same seeds, prompts, reference images and attack results in the same order."""
        return self.inputs == other.inputs


class PlannedCases:
    """The cases of a plan by cell."""

    def __init__(self) -> None:
        self.cells: list[CellCases] = []
        self.regions: dict[int, str] = {}  # picture -> mask of its concept's region
        self._writer = TableWriter(CASES_SCHEMA, GROUP_ROWS)

    def __iter__(self) -> Iterator[CellCases]:
        """Yield the cells in order."""
        return iter(self.cells)

    def add(
        self,
        attempts: Sequence[Attempt],
        images: Sequence[int],
        units: Sequence[str],
        inverts: Sequence[str | None],
        guidance: Sequence[float | None],
    ) -> None:
        """Add the cases of the next cell: one for each attempt, with its picture, units and guidance."""
        own = {
            name: [getattr(attempt, name) for attempt in attempts]
            for name in (
                "seed", "prompt", "item", "item_uri", "prompt_key", "problem", "attack_key", "attack_item", "subject",
                "region", "region_uri", "attributes",
            )
        }  # fmt: skip
        self._writer.add(
            {
                **own,
                "cell_id": [len(self.cells)] * len(attempts),
                "case_no": range(len(attempts)),
                "image_id": images,
                "unit_key": units,
                "invert_key": inverts,
                "guidance": guidance,
            }
        )
        regions = {image: region for image, region in zip(images, own["region"], strict=True) if region}
        self.regions |= regions
        inputs = repr([own[name] for name in ("seed", "prompt", "item", "attack_key", "attack_item")])
        self.cells.append(CellCases(array("q", images), hashlib.sha256(inputs.encode()).digest(), bool(regions)))

    def table(self) -> StoredTable:
        """Return all cases as a table. Nothing can be added after that."""
        return StoredTable.of_bytes(self._writer.close(), CASES_SCHEMA, FIRST_CASE_COLUMNS)
