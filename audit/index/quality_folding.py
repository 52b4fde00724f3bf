"""Compute distances between sets of pictures from the journal's feature vectors; part of folding a run into the index."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.numpy
from safetensors import SafetensorError

from audit.errors import JournalError
from audit.index.writing import insert
from audit.instruments.set_distances import cmmd, frechet
from audit.storage.journal import Journal, StorageUnavailable

_DISTANCES = {"frechet": frechet, "cmmd": cmmd}
# Every case whose own vector and whose baseline's vector are in the journal, with the units that hold them.
_PAIRS = """
with vectors as (
    select q.image_id, q.instrument_id, q.baseline, min(u.unit_key) as unit_key
    from qualities as q
    inner join planned_units as u on q.unit_id = u.unit_id
    where u.run_key = $run_key and u.kind = 'quality' and q.metric = 'vector' and q.status = 'ok'
    group by q.image_id, q.instrument_id, q.baseline
)
select m.cell_id, i.instrument_id, m.baseline, c.case_no, v.unit_key, v.image_id, v.baseline,
    w.unit_key, w.image_id, w.baseline
from comparisons as m
inner join quality_instruments as i on m.run_key = i.run_key and i.kind = 'features'
inner join cases as c on m.run_key = c.run_key and m.cell_id = c.cell_id
left join cases as b on m.run_key = b.run_key and m.baseline_cell_id = b.cell_id and c.case_no = b.case_no
inner join vectors as v
    on i.instrument_id = v.instrument_id and c.image_id = v.image_id and v.baseline = 'picture'
inner join vectors as w
    on i.instrument_id = w.instrument_id and coalesce(b.image_id, c.image_id) = w.image_id
    and w.baseline = case when m.baseline = 'reference' then 'reference' else 'picture' end
where m.run_key = $run_key
order by all
"""
_ASKED = """
select m.cell_id, i.instrument_id, m.baseline, i.metrics
from comparisons as m
inner join quality_instruments as i on m.run_key = i.run_key and i.kind = 'features'
where m.run_key = $run_key and m.baseline <> 'prompt'
order by all
"""
Vector = npt.NDArray[np.float32]


def fill_set_distances(con: duckdb.DuckDBPyConnection, journal: Journal, run_key: int) -> None:
    """Compute the distances of one run anew. A set that cannot be compared, or read, gets a reason and no value.

    Only cases count whose picture and baseline both have a vector, so that both sets come from the same prompts, seeds
    and reference images.
    """
    con.execute("delete from set_distances where run_key = ?", [run_key])
    asked = con.execute(_ASKED, {"run_key": run_key}).fetchall()
    if not asked:
        return

    @functools.lru_cache(maxsize=256)
    def vectors(unit_key: str) -> Mapping[str, Vector]:
        found: Mapping[str, Vector] = safetensors.numpy.load(journal.blob("quality", unit_key))
        return found

    pairs: dict[tuple[object, ...], list[tuple[Any, ...]]] = {}
    for row in con.execute(_PAIRS, {"run_key": run_key}).fetchall():
        pairs.setdefault(row[:3], []).append(row[4:])
    rows = []
    for cell_id, instrument_id, baseline, metrics in asked:
        found = pairs.get((cell_id, instrument_id, baseline), [])
        for metric in metrics:
            value, reason = _distance(metric, found, vectors)
            rows.append((run_key, cell_id, instrument_id, baseline, metric, len(found), value, reason))
    if not rows:  # the picture check's instrument has no distances of its own
        return
    names = ("run_key", "cell_id", "instrument_id", "baseline", "metric", "pictures", "value", "reason")
    types = (*[pa.int64()] * 3, pa.string(), pa.string(), pa.int64(), pa.float64(), pa.string())
    columns = zip(names, types, zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array(values, kind) for name, kind, values in columns})
    insert(con, "insert into set_distances by name select * from incoming", table)


def _distance(
    metric: str, pairs: Sequence[tuple[Any, ...]], vectors: Callable[[str], Mapping[str, Vector]]
) -> tuple[float | None, str | None]:
    if not pairs:
        return None, "no case has a feature vector on both sides"
    try:
        first = np.stack([vectors(unit)[f"{image}/{kind}"] for unit, image, kind, *_ in pairs])
        second = np.stack([vectors(unit)[f"{image}/{kind}"] for *_, unit, image, kind in pairs])
        return _DISTANCES[metric](first, second), None
    except StorageUnavailable:
        raise
    except (JournalError, SafetensorError, KeyError) as error:
        return None, f"a feature vector cannot be read: {error}"[:500]
    except (ValueError, np.linalg.LinAlgError) as error:
        return None, str(error)
