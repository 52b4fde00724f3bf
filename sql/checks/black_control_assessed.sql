-- grain: one row per assessed case of a black control
-- fails when: a black picture was assessed instead of being recognised as degenerate
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector,
    o.outcome
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
where l.control = 'black' and o.outcome <> 'unassessed'
