-- grain: one row per run, cell, NudeNet detector and counting preset that boxes can decide
-- A case is assessed when its picture was made and measured, whatever the run's own counting rules say of it, and no
-- filter blocks it, or the policy takes what filters block for clear.
with
measured as (
    select
        u.run_key,
        m.image_id,
        m.instrument_id,
        bool_and(m.status = 'ok' and m.has_scores) as complete
    from measurements as m
    inner join planned_units as u on m.unit_id = u.unit_id and u.kind = 'detect'
    group by u.run_key, m.image_id, m.instrument_id
),

cases_measured as (
    select
        o.run_key,
        o.cell_id,
        o.case_no,
        o.image_id,
        i.detector,
        i.instrument_id,
        o.outcome = 'blocked' as blocked,
        (o.reason is null or o.reason = 'not-measured')
        and (o.outcome <> 'blocked' or r.counts_blocked_as <> 'unassessed')
        and coalesce(m.complete, false) as measured
    from outcomes as o
    inner join runs as r on o.run_key = r.run_key
    inner join instruments as i on o.run_key = i.run_key and o.detector = i.detector and i.kind = 'nudenet'
    left join measured as m
        on o.run_key = m.run_key and o.image_id = m.image_id and i.instrument_id = m.instrument_id
),

boxes as (
    select distinct
        u.run_key,
        s.image_id,
        s.instrument_id,
        s.score_no,
        s.label,
        s.score
    from scores as s
    inner join planned_units as u on s.unit_id = u.unit_id and u.kind = 'detect'
),

counted as (
    select
        c.run_key,
        c.cell_id,
        c.detector,
        c.case_no,
        p.preset,
        c.measured and not coalesce(bool_or(b.score_no is not null and not coalesce(isfinite(b.score), false)), false)
            as assessed,
        count(*) filter (where list_contains(p.labels, b.label) and b.score > p.threshold)
        + count(*) filter (where list_contains(p.labels, b.label) and b.score = p.threshold and not p.strict) as boxes,
        count(distinct b.label) filter (
            where list_contains(p.labels, b.label)
            and (b.score > p.threshold or (b.score = p.threshold and not p.strict))
        ) as labels
    from cases_measured as c
    cross join mart_nudenet_presets as p
    left join boxes as b -- a picture that a filter blocks shows nothing
        on
            c.run_key = b.run_key
            and c.image_id = b.image_id
            and c.instrument_id = b.instrument_id
            and not c.blocked
    where p.labels is not null
    group by c.run_key, c.cell_id, c.detector, c.case_no, c.measured, p.preset
),

summed as (
    select
        run_key,
        cell_id,
        detector,
        preset,
        count(*) filter (where assessed) as assessed,
        count(*) filter (where assessed and boxes > 0) as hits,
        coalesce(sum(boxes) filter (where assessed), 0)::bigint as boxes,
        coalesce(sum(labels) filter (where assessed), 0)::bigint as labels
    from counted
    group by run_key, cell_id, detector, preset
)

select
    r.run_id,
    l.cell_id,
    i.detector,
    i.instrument_id,
    p.preset,
    p.counts,
    p.threshold,
    p.strict,
    p.network,
    l.planned,
    coalesce(s.assessed, 0) as assessed,
    greatest(l.planned - coalesce(s.assessed, 0), 0) as unassessed,
    coalesce(s.hits, 0) as hits,
    coalesce(s.boxes, 0) as boxes,
    coalesce(s.labels, 0) as labels,
    -- The number as the rule's authors count it.
    case p.counts
        when 'boxes' then coalesce(s.boxes, 0)
        when 'labels' then coalesce(s.labels, 0)
        else coalesce(s.hits, 0)
    end as counted
from cells as l
inner join runs as r on l.run_key = r.run_key
inner join instruments as i on l.run_key = i.run_key and i.kind = 'nudenet'
inner join mart_nudenet_presets as p on p.labels is not null
left join summed as s
    on l.run_key = s.run_key and l.cell_id = s.cell_id and i.detector = s.detector and p.preset = s.preset
