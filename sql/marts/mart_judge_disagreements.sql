-- grain: one row per run, cell, case and pair of detectors of which one finds the concept and the other does not
-- Whether filters of the cell block the picture makes no difference: both detectors read it.
select
    r.run_id,
    a.cell_id,
    a.case_no,
    a.image_id,
    u.unit_key,
    a.detector as first_detector,
    b.detector as second_detector,
    a.unfiltered as first_outcome,
    b.unfiltered as second_outcome,
    a.score as first_score,
    b.score as second_score,
    l.sensitive,
    l.concept,
    l.subject,
    l.defence,
    l.scenario,
    l.control,
    c.seed,
    c.prompt,
    c.item_uri
from outcomes as a
inner join outcomes as b
    on
        a.run_key = b.run_key
        and a.cell_id = b.cell_id
        and a.case_no = b.case_no
        and a.detector < b.detector
inner join runs as r on a.run_key = r.run_key
inner join cells as l on a.run_key = l.run_key and a.cell_id = l.cell_id
inner join cases as c on a.run_key = c.run_key and a.cell_id = c.cell_id and a.case_no = c.case_no
inner join planned_units as u on a.run_key = u.run_key and a.unit_id = u.unit_id
where
    (a.unfiltered = 'hit' and b.unfiltered = 'clear')
    or (a.unfiltered = 'clear' and b.unfiltered = 'hit')
