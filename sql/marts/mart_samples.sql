-- grain: one row per run, cell, case and detector: where the picture is and what was found in it
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.image_id,
    u.unit_key,
    o.detector,
    o.outcome,
    o.reason,
    o.score,
    l.sensitive,
    l.concept,
    l.subject,
    l.defence,
    l.scenario,
    l.control,
    c.seed,
    c.prompt,
    c.item_uri,
    s.case_no is not null as strange
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
inner join cases as c on o.run_key = c.run_key and o.cell_id = c.cell_id and o.case_no = c.case_no
left join strange_pictures as s on o.run_key = s.run_key and o.cell_id = s.cell_id and o.case_no = s.case_no
inner join planned_units as u on o.run_key = u.run_key and o.unit_id = u.unit_id
