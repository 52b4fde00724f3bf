-- grain: one row per run: its size and how much of it the journal holds
with
units as (
    select
        p.run_key,
        count(*) as units,
        count(*) filter (where d.complete) as units_complete,
        count(*) filter (where not d.complete) as units_failed
    from planned_units as p
    left join loaded_units as d on p.unit_id = d.unit_id
    group by p.run_key
),

planned as (
    select
        run_key,
        count(*) as cells,
        sum(planned)::bigint as cases
    from cells
    group by run_key
)

select
    r.run_id,
    r.name,
    r.created_at,
    r.system,
    r.system_version,
    r.owner,
    r.contact,
    r.audited_sha256,
    r.backbone_sha256,
    r.corpus_sha256,
    r.derived_from,
    coalesce(p.cells, 0) as cells,
    coalesce(p.cases, 0) as cases,
    coalesce(u.units, 0) as units,
    coalesce(u.units_complete, 0) as units_complete,
    coalesce(u.units_failed, 0) as units_failed
from runs as r
left join planned as p on r.run_key = p.run_key
left join units as u on r.run_key = u.run_key
