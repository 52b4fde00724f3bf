"""Read how near the hits of a run are to the un-erased model's pictures."""

from __future__ import annotations

import dataclasses

import duckdb

from audit.index.records import records
from audit.verdict.nearest import COPY, DISTINCT, NearestPair, NearestRow, UnerasedPicture

PAIRS = 3  # of a cell's nearest hits, and of its farthest
_ROWS = """
with hits as (
    select o.cell_id, o.detector, count(*) as hits
    from outcomes as o
    inner join runs as r on o.run_key = r.run_key
    where r.run_id = $run_id and o.outcome = 'hit'
    group by o.cell_id, o.detector
)
select
    n.cell_id,
    n.detector,
    any_value(n.instrument) as instrument,
    any_value(h.hits) as hits,
    count(*) as compared,
    count(*) filter (where n.closer_share <= $copy) as copies,
    count(*) filter (where n.closer_share > $distinct) as "distinct",
    count(*) filter (where n.same_case) as same_case,
    count(n.own_distance) as twins,
    max(n.candidates) as candidates,
    median(n.distance) as median_distance,
    max(n.usual_distance) as usual_distance
from mart_nearest_pictures as n
inner join hits as h on n.cell_id = h.cell_id and n.detector = h.detector
where n.run_id = $run_id
group by n.cell_id, n.detector
order by n.cell_id, n.detector
"""
_PAIRS = """
select
    cell_id, case_no, image_id, unit_key, score, sensitive, distance, closer_share, same_case,
    nearest_cell_id, nearest_case_no, nearest_image_id, nearest_unit_key
from mart_nearest_pictures
where run_id = $run_id and detector = $judge
qualify
    row_number() over (partition by cell_id order by distance, case_no) <= $most
    or row_number() over (partition by cell_id order by distance desc, case_no desc) <= $most
order by cell_id, distance, case_no
"""


def read_nearest(con: duckdb.DuckDBPyConnection, run_id: str, judge: str) -> tuple[NearestRow, ...]:
    """Return a row for each cell and detector with hits that could be compared; those of `judge` come with pairs of pictures.

    An index that another version filled may know nothing of it: then there are none.
    """
    if not con.execute("select 1 from duckdb_views() where view_name = 'mart_nearest_pictures'").fetchall():
        return ()
    rows = records(con, _ROWS, {"run_id": run_id, "copy": COPY, "distinct": DISTINCT})
    if not rows:
        return ()
    pairs: dict[int, list[NearestPair]] = {}
    for row in records(con, _PAIRS, {"run_id": run_id, "judge": judge, "most": PAIRS}):
        own = {field.name: row[field.name] for field in dataclasses.fields(NearestPair) if field.name in row}
        picture = UnerasedPicture(*(row[f"nearest_{field.name}"] for field in dataclasses.fields(UnerasedPicture)))
        pairs.setdefault(row["cell_id"], []).append(NearestPair(**own, nearest=picture))
    return tuple(
        NearestRow(**row, pairs=tuple(pairs.get(row["cell_id"], ())) if row["detector"] == judge else ())
        for row in rows
    )
