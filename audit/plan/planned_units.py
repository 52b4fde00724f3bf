"""Collect the units of a plan: each once, whoever needs it, with its identity kept as compressed text until it is stored."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from audit import identity
from audit.plan.identities import Identity, text_of
from audit.plan.stored_tables import StoredTable, TableWriter
from audit.plan.tables import UNIT_COLUMNS, UNITS_SCHEMA

GROUP_ROWS = 1024  # units in a row group of the stored table: a worker decodes one to read one
_CODEC = pa.Codec("zstd")


@dataclasses.dataclass(slots=True)
class PlannedUnit:
    """A unit while a plan is collected: the cells that need it are added as they are planned."""

    kind: str
    depends: tuple[str, ...]
    rows: int
    cells: list[int]  # ascending

    def need(self, cell: int) -> None:
        """Add a cell that needs the unit; cells are planned in ascending order."""
        if not self.cells or self.cells[-1] < cell:
            self.cells.append(cell)


class PlannedUnits:
    """The units of a plan in the order in which they were planned."""

    def __init__(self) -> None:
        self._units: dict[str, PlannedUnit] = {}
        self._texts: list[str] = []  # identities that are not compressed yet
        self._packed: list[tuple[int, bytes]] = []

    def __getitem__(self, key: str) -> PlannedUnit:
        """Return the unit of a key."""
        return self._units[key]

    def add(self, described: Identity, depends: Iterable[str], rows: int, cells: Iterable[int]) -> str:
        """Plan one unit that `cells`, in ascending order, need, or add them to the same unit planned before; return its key."""
        text = text_of(described)
        key = identity.key_of_text(text)
        unit = self._units.get(key)
        if unit is None:
            unit = self._units[key] = PlannedUnit(described.kind, tuple(depends), rows, [])
            self._texts.append(text)
            if len(self._texts) == GROUP_ROWS:
                self._pack()
        for cell in cells:
            unit.need(cell)
        return key

    def of_kind(self, kind: str) -> list[tuple[str, PlannedUnit]]:
        """Return the units of one kind that were planned so far, with their keys."""
        return [(key, unit) for key, unit in self._units.items() if unit.kind == kind]

    def table(self) -> StoredTable:
        """Return the units as a table."""
        writer, rest = TableWriter(UNITS_SCHEMA, GROUP_ROWS), iter(self._units.items())
        for texts in self._unpacked():
            part = list(itertools.islice(rest, len(texts)))
            writer.add(
                {
                    "kind": [unit.kind for _, unit in part],
                    "key": [key for key, _ in part],
                    "depends": [unit.depends for _, unit in part],
                    "identity": texts,
                    "rows": [unit.rows for _, unit in part],
                    "cell_ids": [unit.cells for _, unit in part],
                }
            )
        return StoredTable.of_bytes(writer.close(), UNITS_SCHEMA, UNIT_COLUMNS)

    def _pack(self) -> None:
        data = json.dumps(self._texts).encode()
        self._packed.append((len(data), _CODEC.compress(data, asbytes=True)))
        self._texts = []

    def _unpacked(self) -> Iterator[list[str]]:
        for size, data in self._packed:
            yield json.loads(_CODEC.decompress(data, size, asbytes=True))
        if self._texts:
            yield self._texts
