-- grain: one row per picture and instrument that the run $run_key planned to measure and found in the journal
select
    m.image_id,
    m.instrument_id,
    bool_and(m.status = 'ok' and m.has_scores) as measured,
    min(m.error) as error
from measurements as m
inner join planned_units as u on m.unit_id = u.unit_id
where u.run_key = $run_key and u.kind = 'detect'
group by m.image_id, m.instrument_id
