"""Fold the stored plan of a run into the index: cells, cases, units, instruments and rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import duckdb
import pyarrow as pa

from audit.errors import JournalError
from audit.files import Document, ForeignError, parse_json
from audit.identity import key
from audit.index.writing import insert, insert_records, transaction
from audit.plan.tables import case_batches, unit_batches, with_all_columns
from audit.storage.journal import Journal

# The first 63 bits of a key, as `identity.int_key` takes them.
_UNIT_ID = "(('0x' || left({column}, 16))::ubigint >> 1)::bigint"
_RUN_TABLES = (
    "runs", "instruments", "rules", "cells", "cell_filters", "cases", "item_attributes", "planned_units", "outcomes",
    "quality_instruments", "comparisons", "set_distances", "picture_checks", "strange_pictures", "nearest_pictures", "crr",
    "retention", "verdicts", "decisions", "check_results", "control_findings",
)  # fmt: skip

# What damaged JSON and Parquet end in; an OSError without a number is Arrow's own. DuckDB's other errors speak of the disk.
_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, pa.ArrowException, duckdb.DataError,
    duckdb.IntegrityError, duckdb.ProgrammingError,
)  # fmt: skip


def load_plan(con: duckdb.DuckDBPyConnection, journal: Journal, run_id: str, run_key: int) -> None:
    """Load the run's plan, unless the same plan is there already."""
    files = {name: journal.get_run(run_id, name) for name in ("plan.json", "cases.parquet", "units.parquet")}
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files.values())).hexdigest()
    if con.execute("select plan_sha256 from runs where run_key = ?", [run_key]).fetchall() == [(digest,)]:
        return
    provenance_bytes = journal.get_run(run_id, "provenance.json")
    try:
        if not isinstance(parse_json(provenance_bytes), dict):
            raise ForeignError("its provenance.json is no JSON object")
        provenance = provenance_bytes.decode()
        with transaction(con):
            for table in _RUN_TABLES:
                con.execute(f"delete from {table} where run_key = ?", [run_key])
            _insert_plan(con, run_key, parse_json(files["plan.json"]), digest, provenance)
            _insert_cases(con, run_key, files["cases.parquet"])
            _insert_planned_units(con, run_key, files["units.parquet"])
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise JournalError(
            f"the plan of run {run_id!r} is damaged: {reason}",
            where=journal.store.url(f"runs/{run_id}"),
            next_step="start it again: erasure-audit run SPEC",
        ) from error


def _insert_plan(con: duckdb.DuckDBPyConnection, run_key: int, plan: Document, digest: str, provenance: str) -> None:
    policy, system = plan["policy"], plan["spec"].get("system") or {}
    run = {
        "run_key": run_key,
        "run_id": plan["run_id"],
        "name": plan["name"],
        "created_at": plan["created_at"],
        "system": system.get("name") or plan["name"],
        "system_version": system.get("version"),
        "owner": system.get("owner"),
        "contact": system.get("contact"),
        "backbone_sha256": plan.get("backbone", {}).get("sha256"),
        "corpus_sha256": plan.get("corpus", {}).get("sha256"),
        "derived_from": (plan.get("derived_from") or {}).get("run_id"),
        "confidence": float(policy["confidence"]),
        "first_judge": policy["judges"][0],
        "counts_blocked_as": counts_blocked_as(policy.get("blocked")),
        "plan_sha256": digest,
        "audited_sha256": audited(plan),
        "spec": json.dumps(plan["spec"], sort_keys=True),
        "provenance": provenance,
        "outcomes_current": False,
    }
    for table, rows in {
        "runs": [run],
        "instruments": plan["instruments"],
        "rules": plan["rules"],
        # Plans of before perturbations have neither field, those of before scenarios had other names no kind.
        "cells": [{"perturbation": None, "strength": None, "kind": cell["scenario"], **cell} for cell in plan["cells"]],
        "cell_filters": [
            {"cell_id": cell["cell_id"], "filter_id": one["filter_id"], "filter": one["name"]}
            for cell in plan["cells"]
            for one in cell.get("filters", ())  # absent from plans of before filters
        ],
        "quality_instruments": plan.get("quality_instruments", ()),  # absent from plans of before there were any
        "comparisons": [{"regions": False, **comparison} for comparison in plan.get("comparisons", ())],
    }.items():
        insert_records(con, table, [{**row, "run_key": run_key} for row in rows])


def counts_blocked_as(blocked: object) -> Literal["clear", "unassessed"]:
    """Return what a policy with this `blocked` takes a picture for that a filter blocks."""
    return "unassessed" if blocked == "unassessed" else "clear"


def audited(plan: Document) -> str:
    """Return the digest of what the run audits, whatever the pictures and seeds: backbone, concepts and defences.

    Another run with the same digest is another attempt at the same claim.
    """
    spec = plan["spec"]
    return key({"backbone": plan.get("backbone"), "concepts": spec.get("concepts"), "defences": spec.get("defences")})


def _insert_cases(con: duckdb.DuckDBPyConnection, run_key: int, data: bytes) -> None:
    described: dict[str, str] = {}  # item -> what the corpus says of it
    unit, invert, attack = (_UNIT_ID.format(column=f"{kind}_key") for kind in ("unit", "invert", "attack"))
    for batch in case_batches(data):
        insert(
            con,
            f"insert into cases by name select {run_key}::bigint as run_key, cell_id, case_no, image_id, seed, prompt,"
            f" prompt_key, guidance, problem, subject, item_uri, {unit} as unit_id, {invert} as invert_unit_id,"
            f" {attack} as attack_unit_id, (md5_number_lower(attack_item) >> 1)::bigint as attack_item_id,"
            " (md5_number_lower(item) >> 1)::bigint as item_id from incoming",
            with_all_columns(pa.Table.from_batches([batch])),
        )
        if "attributes" in batch.schema.names and batch.column("attributes").null_count < batch.num_rows:
            items, texts = (batch.column(name).to_pylist() for name in ("item", "attributes"))
            described |= {item: text for item, text in zip(items, texts, strict=True) if item and text}
    _insert_attributes(con, run_key, described)


def _insert_attributes(con: duckdb.DuckDBPyConnection, run_key: int, described: Mapping[str, str]) -> None:
    rows = [(item, *pair) for item, text in described.items() for pair in parse_json(text).items()]
    if rows:
        columns = zip(("item", "attribute", "level_name"), zip(*rows, strict=True), strict=True)
        insert(
            con,
            f"insert into item_attributes by name select {run_key}::bigint as run_key,"
            " (md5_number_lower(item) >> 1)::bigint as item_id, attribute, level_name from incoming",
            pa.table({name: pa.array(values, pa.string()) for name, values in columns}),
        )


def _insert_planned_units(con: duckdb.DuckDBPyConnection, run_key: int, data: bytes) -> None:
    columns = ["kind", "key", "rows"]
    for batch in unit_batches(data, columns):
        insert(
            con,
            f"insert into planned_units by name select {run_key}::bigint as run_key, kind, key as unit_key,"
            f" {_UNIT_ID.format(column='key')} as unit_id, rows as planned_rows from incoming",
            pa.Table.from_batches([batch]),
        )
