-- grain: one row per run, kind of unit, host and device: how many units were computed there
select
    r.run_id,
    p.kind,
    l.host,
    l.device,
    count(*) as units
from runs as r
inner join planned_units as p on r.run_key = p.run_key
inner join loaded_units as l on p.unit_id = l.unit_id
group by r.run_id, p.kind, l.host, l.device
