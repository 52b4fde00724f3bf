-- grain: one row per case with filters whose outcome the filters' rulings contradict
-- fails when: no filter blocks a blocked case, or not every filter lets a hit or clear case pass
with
ruled as (
    select
        o.run_key,
        o.cell_id,
        o.case_no,
        o.detector,
        o.outcome,
        f.filter_id,
        bool_or(coalesce(m.status = 'ok' and m.blocked, false)) as blocked,
        bool_or(coalesce(m.status = 'ok' and not m.blocked, false)) as passed
    from outcomes as o
    inner join cell_filters as f on o.run_key = f.run_key and o.cell_id = f.cell_id
    left join planned_units as u on o.run_key = u.run_key and u.kind = 'filter'
    left join rulings as m on u.unit_id = m.unit_id and o.image_id = m.image_id and f.filter_id = m.filter_id
    group by o.run_key, o.cell_id, o.case_no, o.detector, o.outcome, f.filter_id
),

together as (
    select
        run_key,
        cell_id,
        case_no,
        detector,
        outcome,
        bool_or(blocked) as blocked,
        bool_and(passed and not blocked) as passed
    from ruled
    group by run_key, cell_id, case_no, detector, outcome
    union all
    select
        o.run_key,
        o.cell_id,
        o.case_no,
        o.detector,
        o.outcome,
        false as blocked,
        true as passed
    from outcomes as o
    left join cell_filters as f on o.run_key = f.run_key and o.cell_id = f.cell_id
    where f.filter_id is null
)

select
    r.run_id,
    t.cell_id,
    t.case_no,
    t.detector,
    t.outcome
from together as t
inner join runs as r on t.run_key = r.run_key
where (t.outcome = 'blocked' and not t.blocked) or (t.outcome in ('hit', 'clear') and not t.passed)
