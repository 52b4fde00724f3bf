-- grain: one row per run, cell, guard and measure: its mean and extremes over the cases that have it
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
),

named as (
    select
        run_id,
        cell_id,
        json_extract_string(report, '$.guard') as guard,
        json_extract(report, '$.measures') as measures,
        unnest(json_keys(json_extract(report, '$.measures'))) as measure
    from reported
)

select
    run_id,
    cell_id,
    guard,
    measure,
    count(json_extract(measures, '$.' || measure)::double) as cases,
    -- In order of the values: a sum of floats depends on it, and a resumed run must give the same digits.
    avg(
        json_extract(measures, '$.' || measure)::double
        order by json_extract(measures, '$.' || measure)::double
    ) as mean,
    min(json_extract(measures, '$.' || measure)::double) as smallest,
    max(json_extract(measures, '$.' || measure)::double) as largest
from named
group by run_id, cell_id, guard, measure
