-- grain: one row per target cell and pixel hash that several assessed pictures share
-- fails when: different cases of a target cell gave the very same pixels, so they are not separate attempts
select
    r.run_id,
    c.cell_id,
    g.pixel_sha256,
    count(distinct c.image_id) as pictures
from cases as c
inner join runs as r on c.run_key = r.run_key
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
inner join images as g on c.unit_id = g.unit_id and c.image_id = g.image_id
where l.role = 'target' and g.status = 'ok' and g.pixel_sha256 is not null
group by r.run_id, c.cell_id, g.pixel_sha256
having count(distinct c.image_id) > 1
