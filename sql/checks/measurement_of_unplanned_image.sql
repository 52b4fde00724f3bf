-- grain: one row per measured picture that no case of the run asks for
-- fails when: a detector measured pictures that are not in the plan
with
planned as (
    select distinct
        run_key,
        image_id
    from cases
)

select
    r.run_id,
    m.image_id,
    m.instrument_id
from measurements as m
inner join planned_units as u on m.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
left join planned as c on u.run_key = c.run_key and m.image_id = c.image_id
where u.kind = 'detect' and c.image_id is null
