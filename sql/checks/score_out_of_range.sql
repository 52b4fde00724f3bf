-- grain: one row per raw score that is not a number between 0 and 1
-- fails when: a detector reported a score that is missing, not finite or outside [0, 1]
select
    r.run_id,
    i.detector,
    s.image_id,
    s.label,
    s.score
from scores as s
inner join planned_units as u on s.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
left join instruments as i on u.run_key = i.run_key and s.instrument_id = i.instrument_id
where u.kind = 'detect' and not coalesce(s.score between 0 and 1, false)
