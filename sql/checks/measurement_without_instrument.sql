-- grain: one row per instrument identity that measured for a run without being one of its instruments
-- fails when: measurements or scores carry an instrument that the run does not know
select
    r.run_id,
    m.instrument_id,
    count(*) as measurements
from measurements as m
inner join planned_units as u on m.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
left join instruments as i on u.run_key = i.run_key and m.instrument_id = i.instrument_id
where u.kind = 'detect' and i.instrument_id is null
group by r.run_id, m.instrument_id
