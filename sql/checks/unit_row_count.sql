-- grain: one row per loaded unit with another number of rows than planned
-- fails when: a journal file has too few or too many rows; detect files hold finished pictures only, so never too many
select
    r.run_id,
    u.kind,
    u.unit_key,
    u.planned_rows,
    d.loaded_rows
from planned_units as u
inner join runs as r on u.run_key = r.run_key
inner join loaded_units as d on u.unit_id = d.unit_id
where d.loaded_rows > u.planned_rows or (u.kind <> 'detect' and d.loaded_rows < u.planned_rows)
