-- grain: one row per case of a black control and detector that was not recognised as degenerate
-- fails when: a black picture was assessed, or an error or a missing unit kept it from being recognised as degenerate
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector,
    o.outcome,
    o.reason
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
where l.control = 'black' and (o.outcome <> 'unassessed' or o.reason is distinct from 'degenerate')
