-- grain: one row per run, cell, quality instrument, baseline and metric
-- `value` is a distance between the cell's pictures and the baseline's as sets; mean and median are over single ones.
with
asked as (
    select
        m.run_key,
        m.cell_id,
        m.baseline,
        m.baseline_cell_id,
        i.instrument_id,
        i.instrument,
        i.kind,
        i.weights_sha256,
        l.planned,
        unnest(i.metrics) as metric
    from comparisons as m
    inner join quality_instruments as i
        on
            m.run_key = i.run_key
            and (m.baseline = 'prompt') = (i.kind = 'clip-score')
            and (m.regions or json_extract_string(i.parameters, '$.where') is distinct from 'outside-region')
    inner join cells as l on m.run_key = l.run_key and m.cell_id = l.cell_id
),

stored as (
    select
        u.run_key,
        q.image_id,
        q.instrument_id,
        q.baseline,
        q.baseline_image_id,
        min(q.value) as reading,
        bool_and(q.status = 'ok' and q.value is not null and not isnan(q.value)) as measured,
        min(q.error) as error
    from qualities as q
    inner join planned_units as u on q.unit_id = u.unit_id and u.kind = 'quality'
    group by u.run_key, q.image_id, q.instrument_id, q.baseline, q.baseline_image_id
),

per_picture as (
    select
        a.run_key,
        a.cell_id,
        a.instrument_id,
        a.baseline,
        a.metric,
        count(*) filter (where s.measured) as assessed,
        count(*) filter (where s.measured and isinf(s.reading)) as infinite,
        -- In order of the readings: a sum of floats depends on it, and a resumed run must give the same digits.
        avg(s.reading order by s.reading) filter (where s.measured and isfinite(s.reading)) as mean,
        median(s.reading) filter (where s.measured) as median,
        min(s.error) as reason
    from asked as a
    inner join cases as c on a.run_key = c.run_key and a.cell_id = c.cell_id
    left join cases as b
        on a.run_key = b.run_key and a.baseline_cell_id = b.cell_id and c.case_no = b.case_no
    left join stored as s
        on
            a.run_key = s.run_key
            and c.image_id = s.image_id
            and a.instrument_id = s.instrument_id
            and a.baseline = s.baseline
            and b.image_id is not distinct from s.baseline_image_id
    where a.kind <> 'features'
    group by a.run_key, a.cell_id, a.instrument_id, a.baseline, a.metric
)

select
    r.run_id,
    a.cell_id,
    a.instrument_id,
    a.instrument,
    a.kind,
    a.weights_sha256,
    a.metric,
    a.baseline,
    a.planned,
    -- A distance that could not be computed assesses none of its pictures.
    case when a.kind <> 'features' then coalesce(n.assessed, 0) when d.value is null then 0 else d.pictures end
        as assessed,
    greatest(
        a.planned
        - case when a.kind <> 'features' then coalesce(n.assessed, 0) when d.value is null then 0 else d.pictures end,
        0
    ) as unassessed,
    n.mean,
    n.median,
    coalesce(n.infinite, 0) as infinite,
    d.value,
    coalesce(n.reason, d.reason) as reason
from asked as a
inner join runs as r on a.run_key = r.run_key
left join per_picture as n
    on
        a.run_key = n.run_key
        and a.cell_id = n.cell_id
        and a.instrument_id = n.instrument_id
        and a.baseline = n.baseline
        and a.metric = n.metric
left join set_distances as d
    on
        a.run_key = d.run_key
        and a.cell_id = d.cell_id
        and a.instrument_id = d.instrument_id
        and a.baseline = d.baseline
        and a.metric = d.metric
