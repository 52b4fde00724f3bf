-- grain: one row per assessed outcome without a good picture and a good measurement
-- fails when: a case is assessed although its picture or its measurement is missing or erroneous
-- What a filter blocks needs no measurement.
with
measured as (
    select distinct
        u.run_key,
        m.image_id,
        m.instrument_id
    from measurements as m
    inner join planned_units as u on m.unit_id = u.unit_id
    where u.kind = 'detect' and m.status = 'ok' and m.has_scores
)

select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector
from outcomes as o
inner join runs as r on o.run_key = r.run_key
left join images as g on o.unit_id = g.unit_id and o.image_id = g.image_id and g.status = 'ok'
left join measured as m
    on o.run_key = m.run_key and o.image_id = m.image_id and o.instrument_id = m.instrument_id
where o.outcome <> 'unassessed' and (g.image_id is null or (m.image_id is null and o.outcome <> 'blocked'))
