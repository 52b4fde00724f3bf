-- grain: one row per defended cell of what must survive, subject and detector of the run $run_key;
-- fills the table retention. At the stages of cycles these are control cells, whose pairs are the un-erased model's
-- pictures before any edit.
with
judged as (
    select distinct
        detector,
        subject
    from rules
    where run_key = $run_key
),

-- What a detector says of each noise picture, whatever the subject of its own cell. An error must not make a detector a
-- better witness, so a picture that was not measured counts as taken for every subject.
noise_pictures as (
    select
        o.detector,
        r.subject,
        l.control,
        o.case_no,
        coalesce(bool_or(m.status = 'ok' and m.has_scores), false) as measured,
        coalesce(bool_or(s.score >= r.threshold), false) as hit
    from cells as l
    inner join outcomes as o on l.run_key = o.run_key and l.cell_id = o.cell_id
    inner join rules as r on o.run_key = r.run_key and o.detector = r.detector
    left join measurements as m on o.image_id = m.image_id and o.instrument_id = m.instrument_id
    left join scores as s on o.image_id = s.image_id and o.instrument_id = s.instrument_id and r.label = s.label
    where l.run_key = $run_key and o.run_key = $run_key and l.control in ('noise-latent', 'noise-pixels')
    group by o.detector, r.subject, l.control, o.cell_id, o.case_no
),

taken as (
    select
        detector,
        subject,
        control,
        count(*) filter (where hit or not measured) / count(*) as taken_share
    from noise_pictures
    group by detector, subject, control
),

noise as (
    select
        detector,
        subject,
        max(taken_share) as noise_share
    from taken
    group by detector, subject
),

-- Case by case: the same prompt and seed through the defence and through the un-erased model.
pairs as (
    select
        o.cell_id,
        o.detector,
        j.subject,
        -- What a filter blocks is not drawn for anybody.
        case when o.outcome = 'blocked' then 'clear' else o.outcome end as defended,
        coalesce(b.outcome, 'unassessed') as backbone
    from outcomes as o
    inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
    inner join cases as c on o.run_key = c.run_key and o.cell_id = c.cell_id and o.case_no = c.case_no
    inner join judged as j
        on o.detector = j.detector and coalesce(c.subject, l.subject) = j.subject
    left join cells as m
        on
            l.run_key = m.run_key
            and l.concept = m.concept
            and l.subject = m.subject
            and l.role = m.role
            and l.scenario = m.scenario
            and m.defence = 'none'
            and m.control is not distinct from l.control
            and (l.kind = 'text' or m.strength = 0)
    left join cases as d
        on
            m.run_key = d.run_key
            and m.cell_id = d.cell_id
            and c.case_no = d.case_no
            and c.seed = d.seed
            and c.prompt is not distinct from d.prompt
            and c.subject is not distinct from d.subject
    left join outcomes as b
        on d.run_key = b.run_key and d.cell_id = b.cell_id and d.case_no = b.case_no and o.detector = b.detector
    where
        o.run_key = $run_key
        and l.defence <> 'none'
        and (
            (l.role in ('neighbour', 'benign') and l.kind = 'text' and l.control is null)
            or (l.kind = 'cycles' and l.control = 'checkpoint' and l.subject <> l.concept)
        )
)

select
    l.run_key,
    p.cell_id,
    l.concept,
    p.subject,
    l.role,
    l.defence,
    p.detector,
    count(*) as pairs,
    count(*) filter (where p.backbone = 'hit' and p.defended = 'hit') as kept,
    count(*) filter (where p.backbone = 'hit' and p.defended = 'clear') as lost,
    count(*) filter (where p.backbone = 'clear' and p.defended = 'hit') as gained,
    count(*) filter (where p.backbone = 'clear' and p.defended = 'clear') as neither,
    count(*) filter (where p.backbone = 'hit' and p.defended = 'unassessed') as hit_unassessed,
    count(*) filter (where p.backbone = 'clear' and p.defended = 'unassessed') as clear_unassessed,
    count(*) filter (where p.backbone = 'unassessed' and p.defended = 'hit') as unassessed_hit,
    count(*) filter (where p.backbone = 'unassessed' and p.defended = 'clear') as unassessed_clear,
    count(*) filter (where p.backbone = 'unassessed' and p.defended = 'unassessed') as unassessed_unassessed,
    coalesce(any_value(n.noise_share), 0.0) as noise_share,
    case when l.kind = 'cycles' then l.scenario end as scenario,
    case when l.kind = 'cycles' then l.strength::integer end as stage_no
from pairs as p
inner join cells as l on l.run_key = $run_key and p.cell_id = l.cell_id
left join noise as n on p.detector = n.detector and p.subject = n.subject
group by l.run_key, p.cell_id, l.concept, p.subject, l.role, l.defence, p.detector, l.kind, l.scenario, l.strength
