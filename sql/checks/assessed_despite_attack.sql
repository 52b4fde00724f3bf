-- grain: one row per assessed outcome whose attack found nothing that could be used
-- fails when: a case is assessed although the attack that should give its prompt failed or is missing
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cases as c on o.run_key = c.run_key and o.cell_id = c.cell_id and o.case_no = c.case_no
left join attacks as a on c.attack_unit_id = a.unit_id and c.attack_item_id = a.item_id
where o.outcome <> 'unassessed' and c.attack_unit_id is not null and a.status is distinct from 'ok'
