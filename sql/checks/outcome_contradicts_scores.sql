-- grain: one row per assessed outcome that the raw scores contradict
-- fails when: an outcome disagrees with the raw scores and the counting rules of its run
with
readings as (
    select
        o.run_key,
        o.cell_id,
        o.case_no,
        o.detector,
        o.unfiltered as outcome,
        bool_or(s.score >= t.threshold) as hit
    from outcomes as o
    inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
    inner join cases as c on o.run_key = c.run_key and o.cell_id = c.cell_id and o.case_no = c.case_no
    inner join rules as t
        on
            o.run_key = t.run_key
            and o.detector = t.detector
            and coalesce(c.subject, l.subject) = t.subject
    inner join planned_units as u on o.run_key = u.run_key and u.kind = 'detect'
    inner join scores as s
        on
            u.unit_id = s.unit_id
            and o.image_id = s.image_id
            and o.instrument_id = s.instrument_id
            and t.label = s.label
    where o.unfiltered <> 'unassessed'
    group by o.run_key, o.cell_id, o.case_no, o.detector, o.unfiltered
)

select
    r.run_id,
    d.cell_id,
    d.case_no,
    d.detector,
    d.outcome
from readings as d
inner join runs as r on d.run_key = r.run_key
where (d.outcome = 'hit') <> d.hit
