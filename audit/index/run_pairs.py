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

# The compared cells of both runs. `place` numbers their names: the same in both runs.
_PLACES = """
create or replace temp table places as
select r.run_id = $new as new, c.run_key, c.cell_id, c.concept, c.defence, c.scenario,
    dense_rank() over (order by c.concept, c.defence, c.scenario) as place
from cells as c
inner join runs as r on c.run_key = r.run_key
where r.run_id in ($old, $new) and c.role = 'target' and c.control is null and c.perturbation is null
    and c.defence <> 'none'
"""
# A join from the left would read the cases, and the outcomes, of every run.
_PLANNED = """
create or replace temp table planned as
select p.new, p.place, p.cell_id, k.case_no, k.seed, k.item_id, coalesce(k.prompt, k.prompt_key) as prompt, k.guidance
from cases as k
inner join places as p on k.run_key = p.run_key and k.cell_id = p.cell_id
where k.run_key in (select run_key from runs where run_id in ($old, $new))
"""
_SAME = """a.seed = b.seed and a.item_id is not distinct from b.item_id and a.prompt is not distinct from b.prompt
    and a.guidance is not distinct from b.guidance"""
# Two runs of one plan have the same cases under the same numbers. Where a cell has, its cases need no search for a partner:
# of several that are alike the first is paired with the first, which their numbers do already.
_PARTNERS = f"""
create or replace temp table partners as
with
pairable as (
    select place from places where not list_contains($changed::varchar[], scenario)
    group by place having count(*) filter (where new) = 1 and count(*) filter (where not new) = 1
),
sizes as (select new, place, count(*) as cases from planned group by all),
alike as (
    select a.place, a.cell_id as old_cell_id, a.case_no as old_case_no, b.cell_id as new_cell_id, b.case_no as new_case_no
    from (from planned where not new) as a
    inner join (from planned where new) as b on a.place = b.place and a.case_no = b.case_no and {_SAME}
    where a.place in (select place from pairable)
),
aligned as (
    select f.place
    from (select place, count(*) as cases from alike group by place) as f
    inner join sizes as s on f.place = s.place and f.cases = s.cases
    group by f.place
    having count(*) = 2
),
others as (
    select *, row_number() over (
        partition by new, cell_id, seed, item_id, prompt, guidance order by case_no
    ) as repetition
    from planned
    where place not in (select place from aligned)
)
from alike where place in (select place from aligned)
union all
select coalesce(a.place, b.place), a.cell_id, a.case_no, b.cell_id, b.case_no
from (from others where not new) as a
full outer join (from others where new) as b
    on a.place = b.place and {_SAME} and a.repetition = b.repetition
    and a.place in (select place from places where not list_contains($changed::varchar[], scenario))
"""
# As stg_outcomes decides: a label without a score is below the detector's floor; without a floor it was not measured.
_PAIRS = """
create or replace temp table pairs as
with
judges as (
    select unnest($judges::varchar[]) as detector, unnest($thresholds::double[]) as threshold,
        unnest(range(len($judges)))::tinyint as judge
),
readings as (
    select p.new, o.cell_id, o.case_no, j.judge,
        case
            when o.outcome = 'unassessed' then 'unassessed'
            when o.outcome = 'blocked' then $blocked
            when j.threshold is null then o.outcome
            when coalesce(o.score >= j.threshold, false) then 'hit'
            when not o.labels_complete and (i.score_floor <= 0 or j.threshold < i.score_floor) then 'unassessed'
            else 'clear'
        end as outcome
    from outcomes as o
    inner join places as p on o.run_key = p.run_key and o.cell_id = p.cell_id
    inner join judges as j on o.detector = j.detector
    left join instruments as i on o.run_key = i.run_key and o.detector = i.detector
    where o.run_key in (select run_key from places)
)
select p.*, j.detector, p.old_cell_id is not null and p.new_cell_id is not null as paired,
    coalesce(a.outcome, 'unassessed') as first_outcome, coalesce(b.outcome, 'unassessed') as second_outcome
from partners as p
cross join judges as j
left join (from readings where not new) as a
    on p.old_cell_id = a.cell_id and p.old_case_no = a.case_no and j.judge = a.judge
left join (from readings where new) as b
    on p.new_cell_id = b.cell_id and p.new_case_no = b.case_no and j.judge = b.judge
"""
_NAMES = "(select distinct place, concept, defence, scenario from places)"
_ROWS = f"""
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
from pairs inner join {_NAMES} using (place)
group by concept, scenario, detector, defence
order by concept, scenario, detector, defence
"""
# The nearest case of the other run says why there is no partner.
_UNPAIRED = f"""
with alone as (
    select n.new, n.place, n.cell_id, n.case_no, n.seed, n.item_id, n.prompt, n.guidance
    from partners as p
    inner join planned as n
        on n.new = (p.old_cell_id is null) and n.cell_id = coalesce(p.old_cell_id, p.new_cell_id)
        and n.case_no = coalesce(p.old_case_no, p.new_case_no)
    where p.old_cell_id is null or p.new_cell_id is null
),
others as (from planned where place in (select place from alone)),
near as (
    select p.place, p.new, p.cell_id, p.case_no,
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
    left join others as o on p.place = o.place and p.new <> o.new
    group by p.place, p.new, p.cell_id, p.case_no
)
select concept, defence, scenario, case when new then 'new' else 'old' end as side,
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
from near inner join {_NAMES} using (place)
group by all
order by all
"""
_CHANGES = f"""
select concept, defence, scenario, detector, second_outcome = 'hit' as came_back, old_cell_id, old_case_no, new_cell_id,
    new_case_no, seed
from pairs
inner join {_NAMES} using (place)
inner join (select cell_id as new_cell_id, case_no as new_case_no, seed from planned where new) using (new_cell_id, new_case_no)
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
    runs are read, and what filters block counts as the new run's spec says. Raises `StoreError` for an
    unknown run, and when no detector is the same.
    """
    con = open_published(published)
    try:
        with explained(published):
            for run_id in (old, new):
                require_run(con, run_id, published)
            detectors = _same_detectors(con, old, new, published)
            changed = changed_settings(stored_spec(con, old), stored_spec(con, new))
            ((blocked,),) = con.execute("select counts_blocked_as from runs where run_id = ?", [new]).fetchall()
            rows = pair_cases(con, old, new, dict.fromkeys(detectors), list(changed), blocked=blocked)
            return tuple(row for _, row in rows)
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
    con: Connection,
    old: str,
    new: str,
    thresholds: Mapping[str, float | None],
    changed: Sequence[str],
    *,
    blocked: str = "clear",
) -> list[tuple[str, PairedRow]]:
    """Return (defence, paired outcomes) for each concept, defence, scenario and detector that either run has.

    `thresholds` names the detectors, each with the threshold to count by, or None for the one of each run. Cases of the scenarios
    that have `changed` have no partner. What filters block is `blocked`, as the policy counts it. The
    temporary tables `planned`, `partners` and `pairs` are left for the functions below.
    """
    names = {"old": old, "new": new}
    con.execute(_PLACES, names)
    con.execute(_PLANNED, names)
    con.execute(_PARTNERS, {"changed": list(changed)})
    judges = {"judges": list(thresholds), "thresholds": list(thresholds.values())}
    con.execute(_PAIRS, {**judges, "blocked": blocked})
    return [(row.pop("defence"), PairedRow(**row)) for row in records(con, _ROWS, names)]


def unpaired_cases(con: Connection, old: RunFacts, new: RunFacts, changed: Mapping[str, str]) -> tuple[Unpaired, ...]:
    """Return the cases without a partner, counted by cell and reason. `changed` has the differing settings of each scenario."""
    rows = records(con, _UNPAIRED, {"changed": list(changed)})
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
