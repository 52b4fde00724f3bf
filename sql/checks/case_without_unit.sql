-- grain: one row per case whose generate unit is not in the plan
-- fails when: no planned unit makes the picture of a case
select
    r.run_id,
    c.cell_id,
    c.case_no,
    c.unit_id
from cases as c
inner join runs as r on c.run_key = r.run_key
left join planned_units as u on c.run_key = u.run_key and c.unit_id = u.unit_id and u.kind = 'generate'
where u.unit_id is null
