-- grain: one row per detector and label that it scores without declaring it
-- fails when: a detector reports labels that its instrument record does not list
select
    r.run_id,
    i.detector,
    s.label,
    count(*) as scores
from scores as s
inner join planned_units as u on s.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
inner join instruments as i on u.run_key = i.run_key and s.instrument_id = i.instrument_id
where u.kind = 'detect' and not coalesce(list_contains(i.labels, s.label), false)
group by r.run_id, i.detector, s.label
