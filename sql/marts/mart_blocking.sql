-- grain: one row per run and cell with filters: how many of its cases are blocked, whatever a detector sees in them
select
    r.run_id,
    l.cell_id,
    l.concept,
    l.subject,
    l.role,
    l.control,
    l.defence,
    l.scenario,
    l.perturbation,
    l.planned,
    count(distinct o.case_no) filter (where o.ruling = 'blocked') as blocked,
    count(distinct o.case_no) filter (where o.ruling = 'passed') as passed,
    greatest(l.planned - count(distinct o.case_no) filter (where o.ruling in ('blocked', 'passed')), 0) as undecided
from cells as l
inner join runs as r on l.run_key = r.run_key
left join outcomes as o on l.run_key = o.run_key and l.cell_id = o.cell_id
where (l.run_key, l.cell_id) in (select (f.run_key, f.cell_id) from cell_filters as f)
group by
    r.run_id,
    l.cell_id,
    l.concept,
    l.subject,
    l.role,
    l.control,
    l.defence,
    l.scenario,
    l.perturbation,
    l.planned
