"""Plan a derived run: the pictures that an old run stored, scored by the judges of a new one.

It has the old run's target cells of defended models with their cases, and detect units of its own; the pictures stay the old
run's. The old run is not touched. A derived run decides nothing and is part of no series: it is there to be compared.
"""

from __future__ import annotations

import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit import identity
from audit.errors import JournalError
from audit.files import Document, ForeignError, parse_json
from audit.plan.document import Plan, read_outline
from audit.plan.identities import DetectIdentity, Unit, as_json
from audit.plan.tables import CASES_SCHEMA, UNITS_SCHEMA, read_cases, read_units, with_all_columns
from audit.provenance import provenance
from audit.records import Instrument, Role
from audit.spec.policy import Policy
from audit.storage.journal import Journal

_LONGEST_ID = 128
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Rescoring:
    """A derived run: its id, and the units that score the old run's pictures."""

    run_id: str
    old: str
    units: tuple[Unit, ...]

    @property
    def generate_keys(self) -> set[str]:
        """The units whose pictures are scored."""
        return {unit.depends[0] for unit in self.units}


def plan_rescoring(journal: Journal, old: str, new: Plan, policy: Policy | None = None) -> Rescoring:
    """Store the plan of the derived run, unless it is there, and return it. `policy` names the judges, by default the new run's.

    Raises `JournalError` when a plan is absent or damaged, and when the old run has no cell that could be compared.
    """
    outline = read_outline(journal, old)
    outline.require_own_pictures()
    chosen = {
        planned.cell.cell_id: planned
        for planned in outline.cells
        if planned.cell.role is Role.TARGET
        and planned.cell.control is None
        and planned.cell.perturbation is None
        and planned.cell.defence != "none"
    }
    cases = _cases(journal, old)
    cases = cases.filter(pc.is_in(cases["cell_id"], pa.array(list(chosen), pa.int32())))
    if not cases.num_rows:
        raise JournalError("this run audits no defended model, so there is nothing to score", where=f"run {old}")
    used = policy or new.spec.gate
    judges = [i for i in new.instruments if i.detector in used.judges]
    units, table = _units(cases, judges)
    table = pa.concat_tables([table, _filter_units(journal, old, cases)])
    run_id = _derived_id(old, [dataclasses.asdict(i) for i in judges], [dict(rule) for rule in new.rules])
    rescoring = Rescoring(run_id, old, units)
    if journal.store.exists(f"runs/{run_id}/plan.json"):
        return rescoring
    stored = _document(journal, old)
    stored_policy = used.model_dump(mode="json")
    document = {
        **stored,
        "run_id": run_id,
        "derived_from": {"run_id": old, "judges_of": new.run_id},
        "cells": [planned.as_row() for planned in chosen.values()],
        "instruments": [dataclasses.asdict(i) for i in judges],
        "rules": [dict(rule) for rule in new.rules if rule["detector"] in {i.detector for i in judges}],
        "quality_instruments": [],
        "comparisons": [],
        "policy": stored_policy,
        "spec": {**stored["spec"], "gate": stored_policy},
        "totals": {"cases": cases.num_rows, "units": table.num_rows},
    }
    facts = {**provenance(), "derived_from": document["derived_from"]}
    journal.put_run(run_id, "cases.parquet", _parquet(cases))
    journal.put_run(run_id, "units.parquet", _parquet(table))
    journal.put_run(run_id, "provenance.json", json.dumps(facts, indent=1, sort_keys=True).encode())
    journal.put_run(run_id, "plan.json", json.dumps(document, indent=1, sort_keys=True).encode())
    return rescoring


def _units(cases: pa.Table, judges: list[Instrument]) -> tuple[tuple[Unit, ...], pa.Table]:
    """Return one detect unit for each generate unit and judge, and the plan's table of them."""
    code = identity.code_digest("detect")
    cells: dict[str, set[int]] = {}
    images: dict[str, set[int]] = {}
    for row in cases.select(["unit_key", "cell_id", "image_id"]).to_pylist():
        cells.setdefault(row["unit_key"], set()).add(row["cell_id"])
        images.setdefault(row["unit_key"], set()).add(row["image_id"])
    units, rows = [], []
    for instrument in judges:
        plain = dataclasses.replace(instrument, detector="", threshold=0.0)
        for generate in cells:
            described = DetectIdentity(generate, plain, code)
            stored = as_json(described)
            unit = Unit(identity.key(stored), (generate,), described, len(images[generate]))
            units.append(unit)
            rows.append(
                {
                    "kind": "detect",
                    "key": unit.key,
                    "depends": [generate],
                    "identity": identity.canonical(stored),
                    "rows": unit.rows,
                    "cell_ids": sorted(cells[generate]),
                }
            )
    return tuple(units), pa.Table.from_pylist(rows, schema=UNITS_SCHEMA)


def _filter_units(journal: Journal, run_id: str, cases: pa.Table) -> pa.Table:
    """Return the old run's filter units of these cases, whose rulings stand as they are."""
    try:
        units = read_units(journal.get_run(run_id, "units.parquet"))
        units = units.filter(pc.equal(units["kind"], "filter"))
        kept = set(cases["unit_key"].to_pylist())
        rows = [row for row in units.to_pylist() if parse_json(row["identity"]).get("generate") in kept]
    except (ForeignError, ValueError, AttributeError, OSError, pa.ArrowException) as error:
        raise _damaged(run_id, error) from error
    known = set(cases["cell_id"].to_pylist())
    rows = [{**row, "cell_ids": [cell for cell in row["cell_ids"] if cell in known]} for row in rows]
    return pa.Table.from_pylist([row for row in rows if row["cell_ids"]], schema=UNITS_SCHEMA)


def _derived_id(old: str, judges: list[Document], rules: list[Document]) -> str:
    suffix = f"+by-{identity.key({'old': old, 'judges': judges, 'rules': rules})[:_DIGITS]}"
    return f"{old[: _LONGEST_ID - len(suffix)]}{suffix}"


def _cases(journal: Journal, run_id: str) -> pa.Table:
    try:
        return with_all_columns(read_cases(journal.get_run(run_id, "cases.parquet"))).select(CASES_SCHEMA.names)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise _damaged(run_id, error) from error


def _document(journal: Journal, run_id: str) -> Document:
    try:
        return parse_json(journal.get_run(run_id, "plan.json"))
    except (ForeignError, ValueError) as error:
        raise _damaged(run_id, error) from error


def _damaged(run_id: str, error: Exception) -> JournalError:
    return JournalError(
        f"the plan of run {run_id!r} is damaged: {' '.join(str(error).split())[:300]}",
        where=f"run {run_id}",
        next_step="restore it from a copy of the journal",
    )


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
