-- grain: one row per run, cell and guard: how many of the cell's pictures it acted on, and one reason why it did not
with
reported as (
    select
        r.run_id,
        c.cell_id,
        unnest(from_json(i.guard_report, '["JSON"]')) as report
    from cases as c
    inner join runs as r on c.run_key = r.run_key
    inner join images as i on c.unit_id = i.unit_id and c.image_id = i.image_id
    where i.guard_report is not null
)

select
    run_id,
    cell_id,
    json_extract_string(report, '$.guard') as guard,
    count(*) as cases,
    count(*) filter (where json_extract_string(report, '$.acted') = 'true') as acted,
    avg(json_extract(report, '$.steps')::integer) as steps_mean,
    avg(json_extract(report, '$.unet_calls')::integer) as unet_calls_mean,
    count(*) filter (where json_extract_string(report, '$.failure') is not null) as failed,
    min(json_extract_string(report, '$.reason')) as reason
from reported
group by run_id, cell_id, guard
