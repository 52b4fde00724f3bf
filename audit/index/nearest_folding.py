"""Find for each audited picture the nearest one of the un-erased model; part of folding a run into the index.

The vectors are those of the picture check, or of the first quality instrument with features where the run has no such check.
All audited pictures are compared, not hits alone: which are hits may change with a policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import duckdb
import numpy as np

from audit.index.cell_vectors import CellVectors
from audit.index.writing import insert_records
from audit.verdict.damage import Features
from audit.verdict.nearest import Scale, distance, nearest, scale_of

_INSTRUMENT = """
select i.instrument
from quality_instruments as i
inner join runs as r on i.run_key = r.run_key
where i.run_key = $run_key and i.kind = 'features'
order by i.instrument is distinct from json_extract_string(r.spec, '$.benign.instrument.name'), i.instrument
limit 1
"""
_CASES = """
select l.concept, l.scenario, l.defence, c.cell_id, c.case_no, c.seed, c.item_id
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
where c.run_key = $run_key and l.subject = l.concept
    and (l.control = 'backbone' or (l.role = 'target' and l.control is null and l.defence <> 'none'))
order by c.cell_id, c.case_no
"""


@dataclasses.dataclass(frozen=True)
class _Case:
    concept: str
    scenario: str
    defence: str
    cell_id: int
    case_no: int
    seed: int
    item_id: int | None

    @property
    def attempt(self) -> tuple[object, ...]:
        """Return what makes pictures of two defences those of the same case."""
        return self.scenario, self.case_no, self.seed, self.item_id


@dataclasses.dataclass(frozen=True)
class _Unerased:
    """The un-erased model's pictures of one concept."""

    cases: list[_Case]
    vectors: Features  # (pictures, dimensions)
    scale: Scale
    places: dict[tuple[object, ...], int]  # by attempt


def fill_nearest_pictures(con: duckdb.DuckDBPyConnection, run_key: int, vectors: Callable[[str], CellVectors]) -> None:
    """Find the nearest pictures of one run anew. `vectors` gives those of an instrument.

    Cells and concepts without vectors that can be read have none.
    """
    con.execute("delete from nearest_pictures where run_key = ?", [run_key])
    found = con.execute(_INSTRUMENT, {"run_key": run_key}).fetchall()
    if not found:
        return
    reader = vectors(found[0][0])
    concepts: dict[str, list[_Case]] = {}
    for row in con.execute(_CASES, {"run_key": run_key}).fetchall():
        case = _Case(*row)
        concepts.setdefault(case.concept, []).append(case)
    for cases in concepts.values():
        unerased = _unerased([case for case in cases if case.defence == "none"], reader)
        cells: dict[int, list[_Case]] = {}
        for case in cases:
            if case.defence != "none":
                cells.setdefault(case.cell_id, []).append(case)
        for cell in cells.values() if unerased is not None else ():
            assert unerased is not None
            fixed = {"run_key": run_key, "instrument": found[0][0]}
            insert_records(con, "nearest_pictures", [{**fixed, **row} for row in _rows(cell, unerased, reader)])


def _with_vectors(cases: list[_Case], vectors: CellVectors) -> tuple[list[_Case], list[Features]]:
    """Return the cases whose pictures have a vector, and the vectors; those of a cell that cannot be read are left out."""
    read: dict[int, dict[int, Features]] = {}
    for cell_id in dict.fromkeys(case.cell_id for case in cases):
        try:
            read[cell_id] = dict(vectors.of(cell_id))
        except ValueError:
            read[cell_id] = {}
    known = [case for case in cases if case.case_no in read[case.cell_id]]
    return known, [read[case.cell_id][case.case_no] for case in known]


def _unerased(cases: list[_Case], vectors: CellVectors) -> _Unerased | None:
    known, found = _with_vectors(cases, vectors)
    if not known:
        return None
    stacked = np.stack(found)
    try:
        scale = scale_of(stacked, [case.seed for case in known])
    except ValueError:  # a vector of the journal's files is not finite
        return None
    return _Unerased(known, stacked, scale, {case.attempt: place for place, case in enumerate(known)})


def _rows(cases: list[_Case], unerased: _Unerased, vectors: CellVectors) -> list[dict[str, object]]:
    known, found = _with_vectors(cases, vectors)
    if not known:
        return []
    own = [unerased.places.get(case.attempt, -1) for case in known]
    try:
        pairs = nearest(np.stack(found), unerased.vectors, preferred=own)
    except ValueError:
        return []
    return [
        {
            "cell_id": case.cell_id,
            "case_no": case.case_no,
            "nearest_cell_id": unerased.cases[place].cell_id,
            "nearest_case_no": unerased.cases[place].case_no,
            "distance": away,
            "own_distance": distance(vector, unerased.vectors[twin]) if twin >= 0 else None,
            "candidates": len(unerased.cases),
            "closer_share": unerased.scale.closer_share(away),
            "usual_distance": unerased.scale.usual,
        }
        for case, vector, twin, (place, away) in zip(known, found, own, pairs, strict=True)
    ]
