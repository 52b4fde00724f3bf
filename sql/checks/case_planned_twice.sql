-- grain: one row per case number that occurs more than once in its cell
-- fails when: a case is counted twice
select
    r.run_id,
    c.cell_id,
    c.case_no,
    count(*) as times
from cases as c
inner join runs as r on c.run_key = r.run_key
group by r.run_id, c.cell_id, c.case_no
having count(*) > 1
