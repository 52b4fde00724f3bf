-- grain: one row per run, concept, scenario, pair of defences and detector: cases paired by number and seed
with
sought as (
    select
        run_key,
        cell_id,
        concept,
        scenario,
        defence
    from cells
    where
        perturbation is null
        and (
            (role = 'target' and control is null)
            or (control = 'backbone' and subject = concept)
        )
),

sides as (
    select
        a.run_key,
        a.concept,
        a.scenario,
        a.defence as first_defence,
        b.defence as second_defence,
        a.cell_id as first_cell,
        b.cell_id as second_cell
    from sought as a
    inner join sought as b
        on a.run_key = b.run_key and a.concept = b.concept and a.scenario = b.scenario and a.defence <> b.defence
    where b.defence <> 'none'
),

-- A case that only one side has planned is there with the other side empty.
numbered as (
    select distinct
        s.run_key,
        s.first_cell,
        s.second_cell,
        c.case_no
    from sides as s
    inner join cases as c on s.run_key = c.run_key and c.cell_id in (s.first_cell, s.second_cell)
),

pairs as (
    select
        s.run_key,
        s.concept,
        s.scenario,
        s.first_defence,
        s.second_defence,
        i.detector,
        coalesce(a.seed = b.seed and a.item_id is not distinct from b.item_id, false) as paired,
        -- What a filter blocks is clear or unassessed, as the policy says.
        case when o.outcome = 'blocked' then r.counts_blocked_as else coalesce(o.outcome, 'unassessed') end
            as first_outcome,
        case when p.outcome = 'blocked' then r.counts_blocked_as else coalesce(p.outcome, 'unassessed') end
            as second_outcome
    from sides as s
    inner join runs as r on s.run_key = r.run_key
    inner join numbered as n
        on s.run_key = n.run_key and s.first_cell = n.first_cell and s.second_cell = n.second_cell
    inner join instruments as i on s.run_key = i.run_key
    left join cases as a on n.run_key = a.run_key and n.first_cell = a.cell_id and n.case_no = a.case_no
    left join cases as b on n.run_key = b.run_key and n.second_cell = b.cell_id and n.case_no = b.case_no
    left join outcomes as o
        on a.run_key = o.run_key and a.cell_id = o.cell_id and a.case_no = o.case_no and i.detector = o.detector
    left join outcomes as p
        on b.run_key = p.run_key and b.cell_id = p.cell_id and b.case_no = p.case_no and i.detector = p.detector
)

select
    r.run_id,
    p.concept,
    p.scenario,
    p.detector,
    p.first_defence,
    p.second_defence,
    count(*) filter (where p.paired and p.first_outcome = 'hit' and p.second_outcome = 'hit') as hit_both,
    count(*) filter (where p.paired and p.first_outcome = 'hit' and p.second_outcome = 'clear') as first_only,
    count(*) filter (where p.paired and p.first_outcome = 'clear' and p.second_outcome = 'hit') as second_only,
    count(*) filter (where p.paired and p.first_outcome = 'clear' and p.second_outcome = 'clear') as clear_both,
    count(*) filter (where p.paired and p.first_outcome = 'hit' and p.second_outcome = 'unassessed') as hit_unassessed,
    count(*) filter (where p.paired and p.first_outcome = 'clear' and p.second_outcome = 'unassessed')
        as clear_unassessed,
    count(*) filter (where p.paired and p.first_outcome = 'unassessed' and p.second_outcome = 'hit') as unassessed_hit,
    count(*) filter (where p.paired and p.first_outcome = 'unassessed' and p.second_outcome = 'clear')
        as unassessed_clear,
    count(*) filter (where p.paired and p.first_outcome = 'unassessed' and p.second_outcome = 'unassessed')
        as unassessed_unassessed,
    count(*) filter (where not p.paired) as unpaired
from pairs as p
inner join runs as r on p.run_key = r.run_key
group by r.run_id, p.concept, p.scenario, p.detector, p.first_defence, p.second_defence
