-- grain: one row per run, cell, detector and reason: the cases that were not assessed, and one example of why
select
    r.run_id,
    o.cell_id,
    o.detector,
    o.reason,
    count(*) as cases,
    min(o.error) as example
from outcomes as o
inner join runs as r on o.run_key = r.run_key
where o.outcome = 'unassessed'
group by r.run_id, o.cell_id, o.detector, o.reason
