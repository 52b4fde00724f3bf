"""Compute the picture check of a run from the feature vectors in the journal; part of folding a run into the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from audit.index.cell_vectors import CellVectors
from audit.index.writing import insert
from audit.records import BENIGN_PROMPTS
from audit.spec.benign import FEWEST
from audit.verdict import damage

_CELLS = """
select l.cell_id, l.concept, l.subject, l.role, l.control, l.defence, l.scenario
from cells as l
inner join runs as r on l.run_key = r.run_key
where l.run_key = $run_key and json_extract_string(r.spec, '$.benign.instrument.name') is not null
    and (
        l.role = 'benign' or l.control = 'backbone' or (l.role = 'target' and l.control is null)
        or (l.kind = 'cycles' and l.subject = 'benign-prompts')
    )
order by l.cell_id
"""
_NAME = "select json_extract_string(spec, '$.benign.instrument.name') from runs where run_key = ?"
_FIELDS = {
    "run_key": pa.int64(), "cell_id": pa.int32(), "instrument": pa.string(), "pictures": pa.int64(),
    "distance": pa.float64(), "reference": pa.float64(), "p_value": pa.float64(), "reason": pa.string(),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Cell:
    cell_id: int
    concept: str
    subject: str
    role: str
    control: str | None
    defence: str
    scenario: str


def fill_picture_checks(con: duckdb.DuckDBPyConnection, run_key: int, vectors: Callable[[str], CellVectors]) -> None:
    """Compute the picture checks of one run anew, and which audited pictures are strange.

    `vectors` gives those of an instrument. A cell whose pictures cannot be compared gets a reason and no value.
    Each stage of cycles with benign prompts has a check too.
    """
    for table in ("picture_checks", "strange_pictures"):
        con.execute(f"delete from {table} where run_key = ?", [run_key])
    cells = [_Cell(*row) for row in con.execute(_CELLS, {"run_key": run_key}).fetchall()]
    if not cells:
        return
    ((name,),) = con.execute(_NAME, [run_key]).fetchall()
    reader = vectors(name)
    checks, strange = [], []
    for cell in cells:
        if cell.defence == "none":
            continue
        # Of the stages of cycles the first: the un-erased model before any edit.
        twin = next((c for c in cells if c.defence == "none" and _attack(c) == _attack(cell)), None)
        if cell.subject == BENIGN_PROMPTS:
            pairs, *found = _checked(reader, cell, twin)
            checks.append((run_key, cell.cell_id, name, pairs, *found))
        elif twin is not None:
            benign = next(
                (c for c in cells if c.role == "benign" and c.defence == "none" and c.concept == cell.concept), None
            )
            strange += [(run_key, cell.cell_id, case) for case in _strange(reader, cell, twin, benign)]
    _insert(con, "picture_checks", _FIELDS, checks)
    _insert(con, "strange_pictures", {"run_key": pa.int64(), "cell_id": pa.int32(), "case_no": pa.int32()}, strange)


def _attack(cell: _Cell) -> tuple[str, ...]:
    return cell.concept, cell.subject, cell.scenario


def _insert(
    con: duckdb.DuckDBPyConnection, table: str, fields: Mapping[str, pa.DataType], rows: Sequence[tuple[object, ...]]
) -> None:
    if rows:
        columns = zip(fields.items(), zip(*rows, strict=True), strict=True)
        made = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
        insert(con, f"insert into {table} by name select * from incoming", made)


def _checked(reader: CellVectors, cell: _Cell, twin: _Cell | None) -> tuple[object, ...]:
    """Return the number of pairs that were compared, then distance, reference, p-value and reason."""
    pairs: list[int] = []
    try:
        own, other = reader.of(cell.cell_id), reader.of(twin.cell_id) if twin else {}
        # The first cases, and not the first that were made: a picture that is lost must not be replaced by a better one.
        pairs = [case for case in range(damage.PICTURES) if case in own and case in other]
        if len(pairs) < FEWEST:
            raise ValueError(f"{len(pairs)} pairs of benign pictures were made; at least {FEWEST} are needed")
        found = damage.compare(np.stack([own[n] for n in pairs]), np.stack([other[n] for n in pairs]))
        return len(pairs), found.distance, found.reference, found.p_value, None
    except ValueError as error:
        return len(pairs), None, None, None, str(error)


def _strange(reader: CellVectors, cell: _Cell, twin: _Cell, benign: _Cell | None) -> list[int]:
    """Return the case numbers of strange pictures; none where the un-erased model made too few pictures to tell."""
    try:
        own = reader.of(cell.cell_id)
        references = [*reader.of(twin.cell_id).values(), *(reader.of(benign.cell_id).values() if benign else ())]
        if not own:
            return []
        flags = damage.strange(np.stack(list(own.values())), np.stack(references) if references else np.empty((0, 1)))
        return [case for case, flag in zip(own, flags, strict=True) if flag]
    except ValueError:
        return []
