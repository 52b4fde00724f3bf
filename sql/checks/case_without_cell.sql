-- grain: one row per case whose cell is not in the plan
-- fails when: a case belongs to no cell
select
    r.run_id,
    c.cell_id,
    c.case_no
from cases as c
inner join runs as r on c.run_key = r.run_key
left join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
where l.cell_id is null
