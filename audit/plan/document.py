"""The plan of a run: every cell, case and unit, fixed before any model is loaded. It is the denominator of every rate."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from audit.errors import JournalError
from audit.files import Document, ForeignError, parse_json
from audit.plan.identities import Unit, from_json
from audit.plan.planned_cell import PlannedCell, field, read_cell
from audit.plan.stored_tables import DAMAGE, StoredTable, damaged
from audit.plan.tables import CASES_SCHEMA, FIRST_CASE_COLUMNS, KINDS, UNIT_COLUMNS, UNITS_SCHEMA, read_units
from audit.records import (
    Baseline,
    Case,
    Comparison,
    Instrument,
    QualityInstrument,
    Role,
)
from audit.spec.document import Spec, parse_spec
from audit.spec.policy import Policy
from audit.storage.journal import Journal

__all__ = ["CASES_SCHEMA", "KINDS", "UNITS_SCHEMA", "Draft", "Outline", "Plan", "PlannedCell", "chunks", "planned_keys"]
__all__ += ["read_outline", "read_plan"]

T = TypeVar("T")

_OTHER_VERSION = "use the version of erasure-audit that planned this run, or start it again: erasure-audit run SPEC"


@dataclasses.dataclass(frozen=True)
class Draft:
    """Everything that a run would compute, perhaps from files that are still missing.

    `cases` and `units` are tables of which only what is asked for is decoded, so that large plans stay small in memory.
    """

    run_id: str
    name: str
    created_at: str  # ISO 8601, UTC
    spec: Spec
    backbone: Document  # name, digest and, where its files are here, these
    cells: tuple[PlannedCell, ...]
    cases: StoredTable  # by cell and case number
    units: StoredTable
    instruments: tuple[Instrument, ...]
    rules: tuple[Mapping[str, object], ...]
    corpus: Document  # number of objects and digest of the manifest
    prompt_sets: Mapping[str, object] = dataclasses.field(default_factory=dict)  # scenario -> `PromptSet.facts`
    quality: tuple[QualityInstrument, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def units_of(self, kind: str) -> Iterator[Unit]:
        """Yield the units of one kind, in plan order. Raises `JournalError` when one's identity is none of that kind."""
        yield from map(
            self._unit, self.units.numbered(pc.indices_nonzero(pc.equal(self.units["kind"], kind)).to_pylist())
        )

    def unit(self, row: int) -> Unit:
        """Return the unit in one row of `units`; raises as `units_of`."""
        (stored,) = self.units.rows(row)
        return self._unit(stored)

    def _unit(self, stored: Document) -> Unit:
        try:
            identity = from_json(stored["kind"], parse_json(stored["identity"]))
        except ForeignError as error:
            raise damaged(self.run_id, error) from None
        return Unit(stored["key"], tuple(stored["depends"]), identity, stored["rows"])

    def pending(self, kind: str, journal: Journal) -> list[Unit]:
        """Return the units of `kind` without a complete journal file. A resumed run computes exactly these."""
        done = journal.keys(kind)
        return [unit for unit in self.units_of(kind) if unit.key not in done]

    def cases_of(self, unit_key: str) -> list[Case]:
        """Return the cases of one generate unit, one per picture even when several cells share it.

        They are those of the cell that the unit was planned for, which has all of its pictures.
        """
        cases = self._planned_for(unit_key)
        rows = cases.filter(pc.equal(cases["unit_key"], unit_key)).to_pylist()
        return list({row["image_id"]: Case(**row) for row in rows}.values())

    def items_of(self, invert_key: str) -> dict[str, str]:
        """Return corpus item -> URI for one invert unit."""
        cases = self._planned_for(invert_key)
        rows = cases.filter(pc.equal(cases["invert_key"], invert_key))
        return dict(zip(rows["item"].to_pylist(), rows["item_uri"].to_pylist(), strict=True))

    def _planned_for(self, key: str) -> pa.Table:
        """Return the cases of the cell that a unit was planned for: the first that needed it. None for an unknown unit."""
        row = pc.index(self.units["key"], key).as_py()
        if row < 0:
            return CASES_SCHEMA.empty_table()
        return self.cases.where("cell_id", self.units["cell_ids"][row].as_py()[0])

    def document(self) -> dict[str, object]:
        """Return the plan as a JSON object: everything except the tables of cases and units."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "created_at": self.created_at,
            "spec": self.spec.model_dump(mode="json"),
            "backbone": dict(self.backbone),
            "cells": [cell.as_row() for cell in self.cells],
            "instruments": [dataclasses.asdict(i) for i in self.instruments],
            "rules": [dict(rule) for rule in self.rules],
            "quality_instruments": [dataclasses.asdict(i) for i in self.quality],
            "comparisons": [dataclasses.asdict(c) for c in self.comparisons],
            "policy": self.spec.gate.model_dump(mode="json"),
            "corpus": dict(self.corpus),
            "prompt_sets": dict(self.prompt_sets),
            "totals": {"cases": self.cases.num_rows, "units": self.units.num_rows},
        }


@dataclasses.dataclass(frozen=True)
class Plan(Draft):
    """Everything that a run will compute, with no file missing. Only a plan can be stored."""

    def write(self, journal: Journal) -> None:
        """Store the plan under its run; the JSON is written last and marks it complete."""
        journal.put_run(self.run_id, "cases.parquet", self.cases.data())
        journal.put_run(self.run_id, "units.parquet", self.units.data())
        journal.put_run(self.run_id, "plan.json", json.dumps(self.document(), indent=1, sort_keys=True).encode())


def read_plan(journal: Journal, run_id: str) -> Plan:
    """Return the stored plan of a run. Raises `JournalError` when there is none, it is damaged, or the run is a derived one."""
    document = _stored_document(journal, run_id)
    outline = _outline(document, run_id)
    outline.require_own_pictures()
    cases = StoredTable.of_run(journal, run_id, "cases.parquet", CASES_SCHEMA, FIRST_CASE_COLUMNS)
    units = StoredTable.of_run(journal, run_id, "units.parquet", UNITS_SCHEMA, UNIT_COLUMNS)
    _ = units["kind"], units["key"]  # keys that no unit has are found now
    try:
        quality, comparisons = _quality(document)
        return Plan(
            run_id=field(document, "run_id", str),
            name=field(document, "name", str),
            created_at=field(document, "created_at", str),
            spec=parse_spec(document["spec"], f"plan of run {run_id}", _OTHER_VERSION),
            backbone=field(document, "backbone", dict),
            cells=outline.cells,
            cases=cases,
            units=units,
            instruments=outline.instruments,
            rules=tuple(dict(rule) for rule in document["rules"]),
            corpus=field(document, "corpus", dict),
            prompt_sets=field({"prompt_sets": {}, **document}, "prompt_sets", dict),
            quality=quality,
            comparisons=comparisons,
        )
    except DAMAGE as error:
        raise damaged(run_id, error) from error


@dataclasses.dataclass(frozen=True)
class Outline:
    """The parts of a stored plan that do not need its spec, readable for runs planned under any version of the spec's
    format.
    """

    run_id: str
    created_at: str  # ISO 8601, UTC
    cells: tuple[PlannedCell, ...]
    instruments: tuple[Instrument, ...]
    policy: object  # as it was stored, not validated
    corpus_sha256: str  # of the manifest that the run was planned from; "" when the plan does not say
    derived_from: str | None = None  # the run whose pictures it scores again; see `audit.plan.rescoring`

    def require_own_pictures(self) -> None:
        """Return when the run draws its own pictures. Raises `JournalError` for one that scores another run's again."""
        if self.derived_from is not None:
            raise JournalError(
                f"this run only scores the pictures of {self.derived_from} again; it is there to be compared",
                where=f"run {self.run_id}",
                next_step=f"name {self.derived_from} instead, or: erasure-audit compare {self.run_id} NEW",
            )

    @property
    def cases(self) -> int:
        """Return the number of planned cases."""
        return sum(planned.cell.planned for planned in self.cells)

    def unknown_names(self, policy: Policy) -> list[str]:
        """Return a sentence for each name in `policy` that is not in this run; empty when the policy can decide the run."""
        audited = [planned.cell for planned in self.cells if planned.cell.role is Role.TARGET]
        return policy.problems(
            scenarios={cell.scenario for cell in audited if cell.control is None},
            detectors={instrument.detector for instrument in self.instruments},
            concepts={cell.concept for cell in audited},
            defences={"none", *(cell.defence for cell in audited)},
        )


def read_outline(journal: Journal, run_id: str) -> Outline:
    """Return the outline of a stored run. Raises `JournalError` when there is none or its plan is damaged."""
    return _outline(_stored_document(journal, run_id), run_id)


def _stored_document(journal: Journal, run_id: str) -> Document:
    try:
        document: Document = parse_json(journal.get_run(run_id, "plan.json"))
        return document
    except DAMAGE as error:
        raise damaged(run_id, error) from error


def _outline(document: Document, run_id: str) -> Outline:
    try:
        return Outline(
            run_id=field(document, "run_id", str),
            created_at=field(document, "created_at", str),
            cells=tuple(read_cell(row) for row in document["cells"]),
            instruments=_instruments(document),
            policy=document["policy"],
            corpus_sha256=document.get("corpus", {}).get("sha256", ""),
            derived_from=(document.get("derived_from") or {}).get("run_id"),
        )
    except DAMAGE as error:
        raise damaged(run_id, error) from error


def planned_keys(journal: Journal, run_id: str) -> list[tuple[str, str]]:
    """Return (kind, key) of every planned unit of a run. Raises `JournalError` when its plan is absent or damaged."""
    try:
        units = read_units(journal.get_run(run_id, "units.parquet"), ["kind", "key"])
        return list(zip(units["kind"].to_pylist(), units["key"].to_pylist(), strict=True))
    except DAMAGE as error:
        raise damaged(run_id, error) from error


def _instruments(document: Document) -> tuple[Instrument, ...]:
    return tuple(Instrument(**{**row, "labels": tuple(row["labels"])}) for row in document["instruments"])


def _quality(document: Document) -> tuple[tuple[QualityInstrument, ...], tuple[Comparison, ...]]:
    """Return quality instruments and comparisons, of which plans of earlier versions have none."""
    instruments = [
        QualityInstrument(**{**row, "metrics": tuple(row["metrics"])})
        for row in document.get("quality_instruments", ())
    ]
    comparisons = [
        Comparison(row["cell_id"], Baseline(row["baseline"]), row["baseline_cell_id"], row.get("regions", False))
        for row in document.get("comparisons", ())
    ]
    return tuple(instruments), tuple(comparisons)


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive slices of at most `size` values."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
