"""Read feature vectors of pictures from the journal's quality units, cell by cell."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import duckdb
import safetensors.numpy
from safetensors import SafetensorError

from audit.errors import JournalError
from audit.storage.journal import Journal, StorageUnavailable
from audit.verdict.damage import Features

Vectors = Mapping[int, Features]  # of one cell, by case number
_KEPT = 1024  # units whose vectors stay in memory: what reads them a second time seldom fetches them again

# Every picture that the instrument gave a vector, with the cells that need it.
_VECTORS = """
with vectors as (
    select q.image_id, min(u.unit_key) as unit_key
    from qualities as q
    inner join planned_units as u on q.unit_id = u.unit_id
    inner join quality_instruments as i on u.run_key = i.run_key and q.instrument_id = i.instrument_id
    where u.run_key = $run_key and i.instrument = $instrument and u.kind = 'quality' and q.baseline = 'picture'
        and q.metric = 'vector' and q.status = 'ok'
    group by q.image_id
)
select c.cell_id, c.case_no, v.unit_key, v.image_id
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
inner join vectors as v on c.image_id = v.image_id
where c.run_key = $run_key
    and (l.role = 'benign' or l.control = 'backbone' or (l.role = 'target' and l.control is null))
order by c.cell_id, c.case_no
"""


class CellVectors:
    """The vectors that one instrument gave the pictures of benign, audited and backbone cells of a run."""

    def __init__(self, con: duckdb.DuckDBPyConnection, journal: Journal, run_key: int, instrument: str) -> None:
        self._journal = journal
        self._rows: dict[int, list[tuple[int, str, int]]] = {}
        for cell, case, unit, image in con.execute(_VECTORS, {"run_key": run_key, "instrument": instrument}).fetchall():
            self._rows.setdefault(cell, []).append((case, unit, image))
        self._unit = functools.lru_cache(maxsize=_KEPT)(self._load)

    def _load(self, unit: str) -> Mapping[str, Features]:
        return safetensors.numpy.load(self._journal.blob("quality", unit))

    def of(self, cell_id: int) -> Vectors:
        """Return the vectors of a cell's pictures; raises `ValueError` with a sentence where one cannot be read."""
        try:
            return {case: self._unit(unit)[f"{image}/picture"] for case, unit, image in self._rows.get(cell_id, ())}
        except StorageUnavailable:
            raise
        except (JournalError, SafetensorError, KeyError) as error:
            raise ValueError(f"a feature vector cannot be read: {error}"[:500]) from None
