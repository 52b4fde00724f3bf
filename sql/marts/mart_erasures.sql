-- grain: one row per run and erased model: what was claimed or asked for, and the measured facts, as JSON
select
    r.run_id,
    e.artefact,
    e.status,
    e.facts
from erasures as e
inner join planned_units as u on e.unit_id = u.unit_id and u.kind = 'erase'
inner join runs as r on u.run_key = r.run_key
