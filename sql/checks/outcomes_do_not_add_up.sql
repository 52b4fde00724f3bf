-- grain: one row per cell and detector whose outcomes do not add up to the planned cases
-- fails when: hits, clear, blocked and unassessed cases are not exactly the planned cases
select
    r.run_id,
    l.cell_id,
    i.detector,
    l.planned,
    count(o.case_no) as outcomes,
    count(distinct o.case_no) as cases
from cells as l
inner join runs as r on l.run_key = r.run_key
inner join instruments as i on l.run_key = i.run_key
left join outcomes as o on l.run_key = o.run_key and l.cell_id = o.cell_id and i.detector = o.detector
group by r.run_id, l.cell_id, i.detector, l.planned
having l.planned <> count(o.case_no) or l.planned <> count(distinct o.case_no)
