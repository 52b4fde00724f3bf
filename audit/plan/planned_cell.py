"""A cell of a plan with the settings by which it is judged, and how it is stored."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from audit.files import Document
from audit.records import Cell, CellFilter, Control, Role, Scenario

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """A cell with the settings by which SQL judges it."""

    cell: Cell
    sensitive: bool
    gate_residual_max: float | None
    gate_psnr_min_db: float | None

    def as_row(self) -> dict[str, object]:
        """Return the cell as one flat JSON object."""
        return {
            **dataclasses.asdict(self.cell),
            "sensitive": self.sensitive,
            "gate_residual_max": self.gate_residual_max,
            "gate_psnr_min_db": self.gate_psnr_min_db,
        }


def field(row: Document, name: str, kind: type[T]) -> T:
    """Return one value of a stored plan; raises `ValueError` when it is missing or of another type."""
    value = row.get(name)
    if type(value) is not kind:
        raise ValueError(f"its {name!r} is {str(value)[:80]!r}, which is no {kind.__name__}")
    return value


def read_cell(row: Document) -> PlannedCell:
    """Return a cell from what `PlannedCell.as_row` gave. Raises as `field`, and KeyError for a missing one."""
    cell = Cell(
        cell_id=field(row, "cell_id", int),
        concept=field(row, "concept", str),
        subject=field(row, "subject", str),
        role=Role(row["role"]),
        control=Control(row["control"]) if row["control"] else None,
        defence=field(row, "defence", str),
        scenario=field(row, "scenario", str),
        kind=Scenario(row.get("kind", row["scenario"])),  # absent from plans of before scenarios had other names
        planned=field(row, "planned", int),
        perturbation=row.get("perturbation"),  # absent from plans of before the field was there
        strength=row.get("strength"),
        filters=tuple(CellFilter(**one) for one in row.get("filters", ())),  # absent from plans of before filters
    )
    return PlannedCell(cell, row["sensitive"], row["gate_residual_max"], row["gate_psnr_min_db"])
