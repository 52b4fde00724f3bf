"""Read which levels of prompts, seeds and images come back, with hits of those that stand out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import duckdb

from audit.files import Document
from audit.index.records import records
from audit.verdict.failure_modes import FailureMode, FoundPicture, Level, compared

PICTURES = 6  # of one level
_WORD = re.compile(r"[^\W\d_][^\W\d_-]*")
_HITS = """
select
    o.cell_id,
    o.case_no,
    o.image_id,
    u.unit_key,
    o.score,
    l.sensitive
from mart_case_levels as v
inner join runs as r on v.run_id = r.run_id
inner join outcomes as o on r.run_key = o.run_key and v.cell_id = o.cell_id and v.case_no = o.case_no
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
inner join planned_units as u on o.run_key = u.run_key and o.unit_id = u.unit_id
where
    v.run_id = $run_id
    and v.concept = $concept
    and ($cell_id is null or v.cell_id = $cell_id)
    and v.factor = $factor
    and v.level_name = $level_name
    and o.detector = $detector
    and o.outcome = 'hit'
order by o.score desc nulls last, o.cell_id, o.case_no
limit $most
"""


def read_failure_modes(
    con: duckdb.DuckDBPyConnection, run_id: str, spec: Document, error: float
) -> tuple[FailureMode, ...]:
    """Return the tested levels of every cell and concept; those below `error` after correction come with pictures.

    `spec` is the stored one, which says what the concepts and their neighbours are called.
    """
    sql = "select * exclude run_id from mart_failure_levels where run_id = ? order by all"
    modes = compared([Level(**row) for row in records(con, sql, [run_id])], _classes(spec))
    return tuple(
        dataclasses.replace(mode, pictures=_pictures(con, run_id, mode)) if mode.corrected <= error else mode
        for mode in modes
    )


def _pictures(con: duckdb.DuckDBPyConnection, run_id: str, mode: FailureMode) -> tuple[FoundPicture, ...]:
    stored = mode.factor in ("prompt", "seed", "image", "image group") or mode.factor.startswith("image: ")
    factors = [mode.factor] if stored else ["word", "class"]  # words of prompts got the name of what they tell
    for factor in factors:
        given = {
            "run_id": run_id, "concept": mode.concept, "cell_id": mode.cell_id, "factor": factor,
            "level_name": mode.level_name, "detector": mode.detector, "most": PICTURES,
        }  # fmt: skip
        rows = con.execute(_HITS, given).fetchall()
        if rows:
            return tuple(FoundPicture(*row) for row in rows)
    return ()


def _classes(spec: Document) -> frozenset[str]:
    """Return the words by which a spec names its concepts and their neighbours."""
    words: set[str] = set()
    for concept in spec.get("concepts") or ():
        if isinstance(concept, Mapping):
            names = (
                concept.get("name"),
                concept.get("phrase"),
                *concept.get("synonyms", ()),
                *concept.get("neighbours", ()),
            )
            words |= {word for name in names for word in _WORD.findall(str(name or "").lower())}
    return frozenset(words)
