"""Compare the marts of a disturbed run with those of an undisturbed one, row by row."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from audit.index.store import latest

Tables = Mapping[str, Counter[str]]  # mart -> canonical text of a row -> how often it is there

# What two runs of one spec do not have in common: whose they are, and when it was. Everything else is compared.
OF_NO_RUN = {"mart_nudenet_presets"}  # constants, the same for every run
ANY = {"run_id", "created_at"}
ACTS = {"mart_decisions", "mart_verdicts"}  # every resume decides again: the newest decision is compared
ACT = {"decided_at", "decided_by", "command", "decision_no", "sha256", "folded_sha256", "newest_of_policy", "attempt"}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Rows by which a run differs from the undisturbed one, and whether its verdict does."""

    lost: int = 0
    doubled: int = 0
    changed: int = 0
    verdict: bool = False
    examples: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.changed or self.verdict)


def read_tables(published: Path, run_id: str) -> dict[str, Counter[str]]:
    """Return every mart of the newest copy of the index in the folder `published`, the rows of one run."""
    with duckdb.connect(str(latest(published)), read_only=True) as con:
        names = con.execute(
            "select view_name from duckdb_views() where not internal and starts_with(view_name, 'mart_') order by all"
        ).fetchall()
        tables = {}
        for (name,) in names:
            rows = "" if name in OF_NO_RUN else f"where run_id = '{run_id}'"
            rows += " and newest" if name in ACTS else ""
            done = con.execute(f"select * from {name} {rows}")
            columns = [column[0] for column in done.description]
            found = (_comparable(name, dict(zip(columns, row, strict=True))) for row in done.fetchall())
            tables[name] = Counter(json.dumps(row, sort_keys=True, default=str) for row in found)
        return tables


def verdict(tables: Tables) -> str:
    """Return the newest verdict on record, with its reasons; empty without one."""
    rows = [json.loads(row) for row in tables.get("mart_verdicts", ())]
    return " ".join(f"{row['status']}: {row['reasons']}" for row in rows)


def decisions(published: Path, run_id: str) -> int:
    """Return how many decisions on a run the newest copy of the index in `published` has."""
    with duckdb.connect(str(latest(published)), read_only=True) as con:
        (count,) = con.execute("select count(*) from mart_verdicts where run_id = ?", [run_id]).fetchall()[0]
        return int(count)


def compare(expected: Tables, found: Tables) -> Difference:
    """Return the difference. A row of which one column differs counts as changed, not as one lost and one more."""
    lost = doubled = changed = 0
    examples = []
    for mart in sorted({*expected, *found}):
        before, after = expected.get(mart, Counter()), found.get(mart, Counter())
        missing, extra = before - after, after - before
        twice = sum(count for row, count in extra.items() if row in before)
        other = min(missing.total(), extra.total() - twice)
        lost += missing.total() - other
        doubled += extra.total() - other
        changed += other
        examples += [f"{mart} lacks {row[:600]}" for row in missing][:2] + [
            f"{mart} adds {row[:600]}" for row in extra
        ][:2]
    return Difference(lost, doubled, changed, verdict(expected) != verdict(found), tuple(examples))


def _comparable(mart: str, row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ANY | (ACT if mart in ACTS else set())}
    if mart == "mart_erasures":  # how long the training took
        facts = json.loads(kept["facts"])
        facts["record"].pop("seconds", None)
        kept["facts"] = facts
    return kept
