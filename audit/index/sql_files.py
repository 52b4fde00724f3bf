"""The relations of the index: one SQL file each, file name = relation name, in `sql/` beside this package."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from audit.identity import key, source_digests

_ROOT = Path(__file__).resolve().parents[2] / "sql"
# Temporary relations of one run, in the order in which they build on each other.
STAGING = ("stg_case_states", "stg_rules", "stg_measurements", "stg_readings", "stg_rulings", "stg_outcomes")
# Packages and modules whose text decides what folding writes: rows as they are read, intervals, set distances, keys.
FOLDING = (
    "files", "identity", "index.cell_vectors", "index.decision_folding", "index.folded_files", "index.folding",
    "index.integrity", "index.nearest_folding", "index.picture_folding", "index.plan_folding", "index.quality_folding",
    "index.sql_files", "index.unit_folding", "index.writing",
    "instruments.set_distances", "plan.document", "plan.identities", "plan.personalisations", "plan.planned_cell",
    "plan.stored_tables", "plan.tables", "statistics.binomial",
    "storage.run_records", "storage.threads", "storage.unit_files", "verdict.damage", "verdict.nearest",
)  # fmt: skip


@functools.cache
def relations(folder: str) -> Mapping[str, str]:
    """Return relation name -> SQL text of every file in `sql/{folder}`, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((_ROOT / folder).glob("*.sql"))}


@functools.cache
def digest() -> str:
    """Return the hex SHA-256 of all that decides an index's content: tables, staging, and the Python that fills them.

    Marts are views and hold nothing, and library versions are left out: they may move a last digit only.
    """
    return key({"sql": _text("schema") + "\0" + _text("staging"), "sources": source_digests(FOLDING)})


@functools.cache
def marts_digest() -> str:
    """Return the hex SHA-256 of all marts, by which an index knows whether its views are this version's."""
    return key({"sql": _text("marts")})


def _text(folder: str) -> str:
    return "\0".join(f"{name}\0{sql}" for name, sql in relations(folder).items())
