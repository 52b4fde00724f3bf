-- grain: one row per run and benign cell of a defence: do its pictures still look like the un-erased model's?
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
    p.reason
from picture_checks as p
inner join runs as r on p.run_key = r.run_key
inner join cells as l on p.run_key = l.run_key and p.cell_id = l.cell_id
