-- grain: one row per run, cell and filter: how many of the cell's cases it blocks by itself
with
ruled as (
    select
        u.run_key,
        m.image_id,
        m.filter_id,
        bool_or(coalesce(m.status = 'ok' and m.blocked, false)) as blocked,
        bool_or(coalesce(m.status = 'ok' and not m.blocked, false)) as passed,
        min(m.error) filter (where m.status = 'error') as error
    from rulings as m
    inner join planned_units as u on m.unit_id = u.unit_id and u.kind = 'filter'
    group by u.run_key, m.image_id, m.filter_id
)

select
    r.run_id,
    f.cell_id,
    f.filter,
    f.filter_id,
    count(*) as cases,
    count(*) filter (where m.blocked) as blocked,
    count(*) filter (where m.passed and not m.blocked) as passed,
    min(m.error) as error
from cell_filters as f
inner join runs as r on f.run_key = r.run_key
inner join cases as c on f.run_key = c.run_key and f.cell_id = c.cell_id
left join ruled as m on f.run_key = m.run_key and c.image_id = m.image_id and f.filter_id = m.filter_id
group by r.run_id, f.cell_id, f.filter, f.filter_id
