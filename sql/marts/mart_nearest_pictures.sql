-- grain: one row per run, cell, case and detector: a hit of a defended cell, and the un-erased model's nearest picture
select
    r.run_id,
    n.cell_id,
    n.case_no,
    o.image_id,
    u.unit_key,
    o.detector,
    o.score,
    l.concept,
    l.defence,
    l.scenario,
    n.instrument,
    n.nearest_cell_id,
    n.nearest_case_no,
    b.image_id as nearest_image_id,
    w.unit_key as nearest_unit_key,
    m.scenario as nearest_scenario,
    n.distance,
    n.own_distance,
    n.candidates,
    n.closer_share,
    n.usual_distance,
    l.sensitive or m.sensitive as sensitive,
    n.own_distance is not null and n.nearest_case_no = n.case_no and m.scenario = l.scenario as same_case
from nearest_pictures as n
inner join runs as r on n.run_key = r.run_key
inner join outcomes as o on n.run_key = o.run_key and n.cell_id = o.cell_id and n.case_no = o.case_no
inner join cells as l on n.run_key = l.run_key and n.cell_id = l.cell_id
inner join planned_units as u on o.run_key = u.run_key and o.unit_id = u.unit_id
inner join cells as m on n.run_key = m.run_key and n.nearest_cell_id = m.cell_id
inner join cases as b on n.run_key = b.run_key and n.nearest_cell_id = b.cell_id and n.nearest_case_no = b.case_no
inner join planned_units as w on b.run_key = w.run_key and b.unit_id = w.unit_id
where o.outcome = 'hit'
