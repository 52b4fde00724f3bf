-- grain: one row per run and cell of a defence's benign prompts, at a stage of cycles or not:
-- do its pictures still look like the un-erased model's?
select
    r.run_id,
    p.cell_id,
    l.concept,
    l.defence,
    p.instrument,
    p.pictures,
    l.planned,
    p.distance,
    p.reference,
    p.p_value,
    p.reason,
    case when l.kind = 'cycles' then l.scenario end as scenario,
    case when l.kind = 'cycles' then l.strength::integer end as stage_no
from picture_checks as p
inner join runs as r on p.run_key = r.run_key
inner join cells as l on p.run_key = l.run_key and p.cell_id = l.cell_id
