"""Pair the cases of two runs, for `audit.verdict.comparison`: what came back in the new one, and what no longer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from audit.errors import StoreError
from audit.index.published import open_published, require_run
from audit.index.store import explained
from audit.verdict.comparison import PairedRow

# A case is the same in both runs when it draws the same thing: corpus item, prompt, seed and guidance, in a cell of the same
# concept, defence and scenario, whose sampler is the same.
_PAIRS = """
with sides as (
    select r.run_id, c.cell_id, c.run_key, c.concept, c.defence, c.scenario, i.detector,
        k.seed, k.item_id, coalesce(k.prompt_key, k.prompt) as prompt, k.guidance,
        coalesce(o.outcome, 'unassessed') as outcome,
        row_number() over (
            partition by c.run_key, c.cell_id, i.detector, k.seed, k.item_id, coalesce(k.prompt_key, k.prompt), k.guidance
            order by k.case_no
        ) as repetition
    from cells as c
    inner join runs as r on c.run_key = r.run_key
    inner join instruments as i on c.run_key = i.run_key
    inner join cases as k on c.run_key = k.run_key and c.cell_id = k.cell_id
    left join outcomes as o
        on k.run_key = o.run_key and k.cell_id = o.cell_id and k.case_no = o.case_no and i.detector = o.detector
    where r.run_id in ($old, $new) and c.role = 'target' and c.control is null and c.perturbation is null
        and c.defence <> 'none' and list_contains($detectors, i.detector)
),
pairs as (
    select coalesce(a.concept, b.concept) as concept, coalesce(a.scenario, b.scenario) as scenario,
        coalesce(a.defence, b.defence) as defence, coalesce(a.detector, b.detector) as detector,
        a.cell_id is not null and b.cell_id is not null as paired, a.outcome as first_outcome, b.outcome as second_outcome
    from (from sides where run_id = $old) as a
    full outer join (from sides where run_id = $new) as b
        on a.concept = b.concept and a.defence = b.defence and a.scenario = b.scenario and a.detector = b.detector
        and a.seed = b.seed and a.item_id is not distinct from b.item_id and a.prompt is not distinct from b.prompt
        and a.guidance is not distinct from b.guidance and a.repetition = b.repetition
        and list_contains($scenarios, a.scenario)
)
select concept, scenario, detector, defence || ' in ' || $old as first, defence || ' in ' || $new as second,
    count(*) filter (where paired and first_outcome = 'hit' and second_outcome = 'hit') as hit_both,
    count(*) filter (where paired and first_outcome = 'hit' and second_outcome = 'clear') as first_only,
    count(*) filter (where paired and first_outcome = 'clear' and second_outcome = 'hit') as second_only,
    count(*) filter (where paired and first_outcome = 'clear' and second_outcome = 'clear') as clear_both,
    count(*) filter (where paired and first_outcome = 'hit' and second_outcome = 'unassessed') as hit_unassessed,
    count(*) filter (where paired and first_outcome = 'clear' and second_outcome = 'unassessed') as clear_unassessed,
    count(*) filter (where paired and first_outcome = 'unassessed' and second_outcome = 'hit') as unassessed_hit,
    count(*) filter (where paired and first_outcome = 'unassessed' and second_outcome = 'clear') as unassessed_clear,
    count(*) filter (where paired and first_outcome = 'unassessed' and second_outcome = 'unassessed') as unassessed_unassessed,
    count(*) filter (where not paired) as unpaired
from pairs
group by concept, scenario, detector, defence
order by all
"""


def read_run_pairs(published: Path, old: str, new: str) -> tuple[PairedRow, ...]:
    """Return the paired outcomes of two runs, one row per concept, defence, scenario and detector that either has.

    Cases without a partner are counted as unpaired. Only detectors that are the same instrument with the same threshold in both
    runs are read. Raises `StoreError` for an unknown run, and when no detector is the same.
    """
    con = open_published(published)
    try:
        with explained(published):
            for run_id in (old, new):
                require_run(con, run_id, published)
            detectors = _same_detectors(con, old, new, published)
            arguments = {"old": old, "new": new, "detectors": detectors, "scenarios": _same_scenarios(con, old, new)}
            cursor = con.execute(_PAIRS, arguments)
            names = [column[0] for column in cursor.description or ()]
            return tuple(PairedRow(**dict(zip(names, row, strict=True))) for row in cursor.fetchall())
    finally:
        con.close()


def _same_detectors(con: duckdb.DuckDBPyConnection, old: str, new: str, published: Path) -> list[str]:
    sql = (
        "select a.detector from mart_instruments as a inner join mart_instruments as b using (detector, instrument_id, threshold)"
        " where a.run_id = ? and b.run_id = ? order by all"
    )
    detectors = [str(row[0]) for row in con.execute(sql, [old, new]).fetchall()]
    if not detectors:
        raise StoreError(
            f"no detector of run {old} is the same instrument, with the same threshold, in run {new}",
            where=str(published),
            next_step="compare runs that were scored by the same judges",
        )
    return detectors


def _same_scenarios(con: duckdb.DuckDBPyConnection, old: str, new: str) -> list[str]:
    """Return the scenarios that sample in the same way in both runs; cases of the others have no partner."""
    names = con.execute("select distinct scenario from cells order by all").fetchall()
    first, second = (_samplers(con, run_id) for run_id in (old, new))
    return [name for (name,) in names if first.get(name) == second.get(name)]


def _samplers(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    ((spec,),) = con.execute("select spec from runs where run_id = ?", [run_id]).fetchall()
    scenarios = json.loads(spec).get("scenarios") or []
    return {str(s.get("name")): (s.get("kind"), s.get("sampler")) for s in scenarios if isinstance(s, dict)}
