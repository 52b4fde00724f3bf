-- grain: one row per cell whose denominator is not the number of its cases
-- fails when: a cell's planned count differs from the cases in the plan
select
    r.run_id,
    l.cell_id,
    l.planned,
    count(c.case_no) as cases
from cells as l
inner join runs as r on l.run_key = r.run_key
left join cases as c on l.run_key = c.run_key and l.cell_id = c.cell_id
group by r.run_id, l.cell_id, l.planned
having l.planned <> count(c.case_no)
