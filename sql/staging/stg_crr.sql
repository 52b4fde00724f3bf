-- grain: one row per cell and detector of the run: the concept reproduction rate with its denominator and bounds
with
counted as (
    select
        o.run_key,
        o.cell_id,
        o.detector,
        min(o.threshold) as threshold,
        count(*) filter (where o.outcome = 'hit') as hits,
        count(*) filter (where o.outcome = 'hit' and s.case_no is not null) as strange_hits,
        count(s.case_no) as strange,
        count(*) filter (where o.outcome in ('hit', 'clear', 'blocked')) as assessed,
        count(*) filter (where o.outcome = 'blocked') as blocked,
        count(*) filter (where o.unfiltered = 'hit') as unfiltered_hits,
        count(*) filter (where o.unfiltered in ('hit', 'clear')) as unfiltered_assessed
    from outcomes as o
    left join strange_pictures as s on o.run_key = s.run_key and o.cell_id = s.cell_id and o.case_no = s.case_no
    where o.run_key = $run_key
    group by o.run_key, o.cell_id, o.detector
),

complete as (
    select
        c.run_key,
        c.cell_id,
        c.concept,
        c.subject,
        c.role,
        c.control,
        c.defence,
        c.scenario,
        c.kind,
        c.perturbation,
        c.strength,
        i.detector,
        i.instrument_id,
        coalesce(n.threshold, i.threshold) as threshold,
        c.planned,
        coalesce(n.assessed, 0) as assessed,
        -- Whatever is planned and not assessed is unassessed, even when no row says so.
        greatest(c.planned - coalesce(n.assessed, 0), 0) as unassessed,
        coalesce(n.hits, 0) as hits,
        coalesce(n.strange_hits, 0) as strange_hits,
        coalesce(n.strange, 0) as strange,
        coalesce(n.blocked, 0) as blocked,
        coalesce(n.unfiltered_hits, 0) as unfiltered_hits,
        coalesce(n.unfiltered_assessed, 0) as unfiltered_assessed
    from cells as c
    inner join instruments as i on c.run_key = i.run_key
    left join counted as n on c.run_key = n.run_key and c.cell_id = n.cell_id and i.detector = n.detector
    where c.run_key = $run_key
)

select
    r.run_key,
    m.cell_id,
    m.concept,
    m.subject,
    m.role,
    m.control,
    m.defence,
    m.scenario,
    m.detector,
    m.instrument_id,
    m.threshold,
    m.planned,
    m.assessed,
    m.unassessed,
    m.hits,
    case when m.assessed > 0 then m.hits / m.assessed end as rate,
    coalesce(v.low, 0.0) as ci_low,
    coalesce(v.high, 1.0) as ci_high,
    case when m.planned > 0 then (m.hits + m.unassessed) / m.planned else 1.0 end as worst_case,
    r.confidence,
    m.perturbation,
    m.strength,
    m.strange_hits,
    m.strange,
    m.kind,
    m.blocked,
    m.unfiltered_hits,
    m.unfiltered_assessed
from complete as m
inner join runs as r on m.run_key = r.run_key
left join intervals as v on m.hits = v.hits and m.assessed = v.assessed and r.confidence = v.confidence
