"""Pair the cases of two runs, for `audit.verdict.regression`: what came back in the new one, and what no longer does.

A case is the same in both runs when it draws the same thing: corpus item, prompt, seed and guidance, in a cell of the same
concept, defence and scenario, whose attack has the same settings. Only target cells of defended models are compared, not their
disturbed rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from audit.errors import StoreError
from audit.files import Document
from audit.index.published import open_published, require_run
from audit.index.records import records
from audit.index.store import explained
from audit.verdict.comparison import PairedRow
from audit.verdict.regression import Change, RunFacts, Unpaired

# As stg_outcomes decides: a label without a score is below the detector's floor; without a floor it was not measured.
_SIDES = """
create or replace temp table sides as
with judges as (select unnest($judges::varchar[]) as detector, unnest($thresholds::double[]) as threshold),
planned as (
    select r.run_id, c.cell_id, c.run_key, c.concept, c.defence, c.scenario, k.case_no, k.seed, k.item_id,
        coalesce(k.prompt, k.prompt_key) as prompt, k.guidance,
        row_number() over (
            partition by c.run_key, c.cell_id, k.seed, k.item_id, coalesce(k.prompt, k.prompt_key), k.guidance
            order by k.case_no
        ) as repetition
    from cells as c
    inner join runs as r on c.run_key = r.run_key
    inner join cases as k on c.run_key = k.run_key and c.cell_id = k.cell_id
    where r.run_id in ($old, $new) and c.role = 'target' and c.control is null and c.perturbation is null
        and c.defence <> 'none'
),
-- A join from the left would read the outcomes of every run.
read as (
    select o.run_key, o.cell_id, o.case_no, o.detector, o.outcome, o.score, o.labels_complete
    from outcomes as o
    where o.run_key in (select run_key from runs where run_id in ($old, $new))
)
select p.*, j.detector,
    case
        when o.outcome is null or o.outcome = 'unassessed' then 'unassessed'
        when o.outcome = 'blocked' then 'clear'
        when j.threshold is null then o.outcome
        when coalesce(o.score >= j.threshold, false) then 'hit'
        when not o.labels_complete and (i.score_floor <= 0 or j.threshold < i.score_floor) then 'unassessed'
        else 'clear'
    end as outcome
from planned as p
cross join judges as j
left join instruments as i on p.run_key = i.run_key and j.detector = i.detector
left join read as o
    on p.run_key = o.run_key and p.cell_id = o.cell_id and p.case_no = o.case_no and j.detector = o.detector
"""
_PAIRS = """
create or replace temp table pairs as
select coalesce(a.concept, b.concept) as concept, coalesce(a.defence, b.defence) as defence,
    coalesce(a.scenario, b.scenario) as scenario, coalesce(a.detector, b.detector) as detector,
    coalesce(a.seed, b.seed) as seed, coalesce(a.item_id, b.item_id) as item_id, coalesce(a.prompt, b.prompt) as prompt,
    coalesce(a.guidance, b.guidance) as guidance, case when b.cell_id is null then 'old' else 'new' end as side,
    a.cell_id is not null and b.cell_id is not null as paired, a.outcome as first_outcome, b.outcome as second_outcome,
    a.cell_id as old_cell_id, a.case_no as old_case_no, b.cell_id as new_cell_id, b.case_no as new_case_no
from (from sides where run_id = $old) as a
full outer join (from sides where run_id = $new) as b
    on a.concept = b.concept and a.defence = b.defence and a.scenario = b.scenario and a.detector = b.detector
    and a.seed = b.seed and a.item_id is not distinct from b.item_id and a.prompt is not distinct from b.prompt
    and a.guidance is not distinct from b.guidance and a.repetition = b.repetition
    and not list_contains($changed::varchar[], a.scenario)
"""
_ROWS = """
select defence, concept, scenario, detector, defence || ' in ' || $old as first, defence || ' in ' || $new as second,
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
order by concept, scenario, detector, defence
"""
# The nearest case of the other run says why there is no partner.
_UNPAIRED = """
with alone as (
    select distinct concept, defence, scenario, side, seed, item_id, prompt, guidance, old_cell_id, old_case_no, new_cell_id,
        new_case_no
    from pairs
    where not paired
),
others as (select distinct * exclude (detector, outcome) from sides),
near as (
    select p.concept, p.defence, p.scenario, p.side, p.old_cell_id, p.old_case_no, p.new_cell_id, p.new_case_no,
        count(o.cell_id) > 0 as cell,
        bool_or(o.seed = p.seed) as seed,
        bool_or(o.seed = p.seed and o.item_id is not distinct from p.item_id and o.guidance is not distinct from p.guidance)
            as all_but_prompt,
        bool_or(o.seed = p.seed and o.prompt is not distinct from p.prompt and o.guidance is not distinct from p.guidance)
            as all_but_item,
        bool_or(o.seed = p.seed and o.prompt is not distinct from p.prompt and o.item_id is not distinct from p.item_id)
            as all_but_guidance,
        bool_or(o.item_id is not distinct from p.item_id and o.prompt is not distinct from p.prompt
            and o.guidance is not distinct from p.guidance) as all_but_seed,
        bool_or(o.seed = p.seed and o.item_id is not distinct from p.item_id and o.prompt is not distinct from p.prompt
            and o.guidance is not distinct from p.guidance) as same
    from alone as p
    left join others as o
        on p.concept = o.concept and p.defence = o.defence and p.scenario = o.scenario
        and o.run_id = case p.side when 'old' then $new else $old end
    group by all
)
select concept, defence, scenario, side,
    case
        when not cell then 'cell'
        when list_contains($changed::varchar[], scenario) then 'settings'
        when same then 'repetition'
        when all_but_prompt then 'prompt'
        when all_but_item then 'item'
        when all_but_guidance then 'guidance'
        when all_but_seed then 'seed'
        else 'case'
    end as reason,
    count(*) as cases
from near
group by all
order by all
"""
_CHANGES = """
select concept, defence, scenario, detector, second_outcome = 'hit' as came_back, old_cell_id, old_case_no, new_cell_id,
    new_case_no, seed
from pairs
where paired and first_outcome <> second_outcome and first_outcome <> 'unassessed' and second_outcome <> 'unassessed'
qualify row_number() over (
    partition by concept, defence, scenario, detector, came_back order by new_cell_id, new_case_no
) <= $most
order by concept, scenario, defence, detector, came_back desc, new_cell_id, new_case_no
"""
# Fields of a scenario that say how many cases there are, or that every case carries by itself.
_OF_CASES = {"cases", "name", "perturbations", "perturbed_cases", "prompts", "synonyms", "templates"}
_LONGEST = 60
Connection = duckdb.DuckDBPyConnection


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
            changed = changed_settings(stored_spec(con, old), stored_spec(con, new))
            return tuple(row for _, row in pair_cases(con, old, new, dict.fromkeys(detectors), list(changed)))
    finally:
        con.close()


def _same_detectors(con: Connection, old: str, new: str, published: Path) -> list[str]:
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


def stored_spec(con: Connection, run_id: str) -> Document:
    """Return the spec of a folded run as it was stored."""
    ((text,),) = con.execute("select spec from runs where run_id = ?", [run_id]).fetchall()
    spec: Document = json.loads(text)
    return spec


def pair_cases(
    con: Connection, old: str, new: str, thresholds: Mapping[str, float | None], changed: Sequence[str]
) -> list[tuple[str, PairedRow]]:
    """Return (defence, paired outcomes) for each concept, defence, scenario and detector that either run has.

    `thresholds` names the detectors, each with the threshold to count by, or None for the one of each run. Cases of the scenarios
    that have `changed` have no partner. The temporary tables `sides` and `pairs` are left for the functions below.
    """
    names = {"old": old, "new": new}
    con.execute(_SIDES, {**names, "judges": list(thresholds), "thresholds": list(thresholds.values())})
    con.execute(_PAIRS, {**names, "changed": list(changed)})
    return [(row.pop("defence"), PairedRow(**row)) for row in records(con, _ROWS, names)]


def unpaired_cases(con: Connection, old: RunFacts, new: RunFacts, changed: Mapping[str, str]) -> tuple[Unpaired, ...]:
    """Return the cases without a partner, counted by cell and reason. `changed` has the differing settings of each scenario."""
    rows = records(con, _UNPAIRED, {"old": old.run_id, "new": new.run_id, "changed": list(changed)})
    return tuple(
        Unpaired(**row, detail=changed.get(row["scenario"], "") if row["reason"] == "settings" else "") for row in rows
    )


def changed_cases(con: Connection, most: int) -> tuple[Change, ...]:
    """Return the cases whose outcome is another in the new run, of each cell, judge and direction the first `most`."""
    return tuple(Change(**row) for row in records(con, _CHANGES, {"most": most}))


def changed_settings(old: Document, new: Document) -> dict[str, str]:
    """Return scenario -> the settings that differ, from two stored specs; scenarios that both sample alike are left out."""
    first, second = _scenarios(old), _scenarios(new)
    changed = {}
    for name in sorted(first.keys() & second.keys()):
        fields = sorted((first[name].keys() | second[name].keys()) - _OF_CASES)
        differing = [f for f in fields if first[name].get(f) != second[name].get(f)]
        if differing:
            changed[name] = "; ".join(_change(f, first[name].get(f), second[name].get(f)) for f in differing)
    return changed


def _scenarios(spec: Document) -> dict[str, Document]:
    return {str(s.get("name")): s for s in spec.get("scenarios") or [] if isinstance(s, dict)}


def _change(field: str, old: object, new: object) -> str:
    """Return one changed setting in words; of two records only what differs in them."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return "; ".join(_change(f"{field}.{name}", old.get(name), new.get(name)) for name in names)
    first, second = (json.dumps(value, ensure_ascii=False)[:_LONGEST] for value in (old, new))
    return f"{field} {first}, then {second}"
