-- grain: one row per generated picture that no case of the run asks for
-- fails when: a unit of the run made pictures that are not in the plan
with
planned as (
    select distinct
        run_key,
        unit_id,
        image_id
    from cases
)

select
    r.run_id,
    g.unit_id,
    g.image_id
from images as g
inner join planned_units as u on g.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
left join planned as c on u.run_key = c.run_key and g.unit_id = c.unit_id and g.image_id = c.image_id
where u.kind = 'generate' and c.image_id is null
