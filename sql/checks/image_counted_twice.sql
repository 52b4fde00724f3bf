-- grain: one row per picture that stands for several cases of one cell
-- fails when: one picture is counted as several cases of a cell, which would make its interval too narrow
select
    r.run_id,
    c.cell_id,
    c.image_id,
    count(*) as times
from cases as c
inner join runs as r on c.run_key = r.run_key
group by r.run_id, c.cell_id, c.image_id
having count(*) > 1
