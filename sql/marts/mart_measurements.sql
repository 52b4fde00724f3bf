-- grain: one row per run, measurement and raw score; label and score are null for a measurement without scores
select
    r.run_id,
    m.image_id,
    m.instrument_id,
    m.status,
    m.error,
    s.label,
    s.score
from runs as r
inner join planned_units as u on r.run_key = u.run_key and u.kind = 'detect'
inner join measurements as m on u.unit_id = m.unit_id
left join scores as s on m.unit_id = s.unit_id and m.image_id = s.image_id
