-- grain: one row per run, concept, cell, detector, factor and level: hits of the level's cases and of the others
-- Seeds and reference images are counted over all cells of a concept; their rows have no cell.
-- What a filter blocks did not come back: it is assessed and no hit, or unassessed where the policy says so.
with
judged as (
    select
        r.run_id,
        o.cell_id,
        o.case_no,
        o.detector,
        o.outcome = 'hit' as hit
    from outcomes as o
    inner join runs as r on o.run_key = r.run_key
    where
        o.outcome <> 'unassessed'
        and (o.outcome <> 'blocked' or r.counts_blocked_as <> 'unassessed')
),

placed as (
    select
        v.run_id,
        v.concept,
        v.factor,
        v.level_name,
        j.detector,
        j.hit,
        case when v.factor not in ('seed', 'image') then v.cell_id end as cell_id
    from mart_case_levels as v
    inner join judged as j on v.run_id = j.run_id and v.cell_id = j.cell_id and v.case_no = j.case_no
),

counted as (
    select
        run_id,
        concept,
        cell_id,
        detector,
        factor,
        level_name,
        count(*) as assessed,
        count(*) filter (where hit) as hits
    from placed
    group by run_id, concept, cell_id, detector, factor, level_name
),

-- Each assessed case of a group counts once, whatever number of words it has.
cases_of as (
    select
        run_id,
        concept,
        cell_id,
        detector,
        factor,
        sum(assessed) as assessed,
        sum(hits) as hits
    from counted
    where factor <> 'word'
    group by run_id, concept, cell_id, detector, factor
    union all
    select
        run_id,
        concept,
        cell_id,
        detector,
        'word' as factor,
        sum(assessed) as assessed,
        sum(hits) as hits
    from counted
    where factor = 'prompt'
    group by run_id, concept, cell_id, detector
)

select
    c.run_id,
    c.concept,
    c.cell_id,
    c.detector,
    c.factor,
    c.level_name,
    c.assessed::bigint as assessed,
    c.hits::bigint as hits,
    (g.assessed - c.assessed)::bigint as other_assessed,
    (g.hits - c.hits)::bigint as other_hits
from counted as c
inner join cases_of as g
    on
        c.run_id = g.run_id
        and c.concept = g.concept
        and c.cell_id is not distinct from g.cell_id
        and c.detector = g.detector
        and c.factor = g.factor
