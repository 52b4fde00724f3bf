"""The SQL files: one relation per file, file name = relation name. They lie in `sql/`, beside this package."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent / "sql"
# Temporary relations of one run, in the order in which they build on each other.
STAGING = ("stg_case_states", "stg_rules", "stg_measurements", "stg_readings", "stg_outcomes")


@functools.cache
def relations(folder: str) -> Mapping[str, str]:
    """Relation name -> SQL text of every file in `sql/{folder}`, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((_ROOT / folder).glob("*.sql"))}


@functools.cache
def digest() -> str:
    """Hex SHA-256 of the definitions that decide what a filled index contains: tables and staging."""
    text = "\0".join(f"{name}\0{sql}" for part in ("schema", "staging") for name, sql in relations(part).items())
    return hashlib.sha256(text.encode()).hexdigest()
