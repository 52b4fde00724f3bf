-- grain: one row per planned picture whose identity stands for different pixels within a run
-- fails when: two units of a run made different pixels under the same picture identity
select
    r.run_id,
    g.image_id,
    count(distinct g.pixel_sha256) as variants
from images as g
inner join planned_units as u on g.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
where u.kind = 'generate'
group by r.run_id, g.image_id
having count(distinct g.pixel_sha256) > 1
