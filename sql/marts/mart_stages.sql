-- grain: one row per run, stage of a chain of edits and erasures, subject, measure and instrument
-- `stage_no` 0 is the model before any edit, odd ones are edited, even ones erased again; `drift` is since stage 0.
with
stages as (
    select
        l.run_key,
        r.run_id,
        l.cell_id,
        l.concept,
        l.subject,
        l.defence,
        l.scenario,
        l.control,
        l.strength::integer as stage_no
    from cells as l
    inner join runs as r on l.run_key = r.run_key
    where l.kind = 'cycles' and l.strength is not null
),

readings as (
    select
        s.run_id,
        s.cell_id,
        'crr' as measure,
        c.detector as instrument,
        c.instrument_id,
        '' as baseline,
        c.planned,
        c.assessed,
        c.rate as reading
    from stages as s
    inner join crr as c on s.run_key = c.run_key and s.cell_id = c.cell_id
    union all
    select
        s.run_id,
        s.cell_id,
        q.metric as measure,
        q.instrument,
        q.instrument_id,
        q.baseline,
        q.planned,
        q.assessed,
        coalesce(q.value, q.mean) as reading
    from stages as s
    inner join mart_quality as q on s.run_id = q.run_id and s.cell_id = q.cell_id
)

select
    s.run_id,
    s.cell_id,
    s.concept,
    s.subject,
    s.defence,
    s.scenario,
    s.control,
    s.stage_no,
    (s.stage_no + 1) // 2 as cycle_no,
    case when s.stage_no % 2 = 1 then 'edit' when s.defence = 'none' then 'backbone' else 'eraser' end as made_by,
    m.measure,
    m.instrument,
    m.instrument_id,
    m.baseline,
    m.planned,
    m.assessed,
    m.reading,
    -- Against the backbone, stage 0 of the backbone itself has no reading, and nothing of it has a change.
    m.reading - z.reading as drift
from stages as s
inner join readings as m on s.run_id = m.run_id and s.cell_id = m.cell_id
left join stages as f
    on
        s.run_id = f.run_id
        and s.concept = f.concept
        and s.subject = f.subject
        and s.defence = f.defence
        and s.scenario = f.scenario
        and f.stage_no = 0
left join readings as z
    on
        f.run_id = z.run_id
        and f.cell_id = z.cell_id
        and m.measure = z.measure
        and m.instrument_id = z.instrument_id
        and m.instrument = z.instrument
        and m.baseline = z.baseline
