-- grain: one row per picture, detector and sought subject of the run $run_key: the raw scores under the counting rules
with
sought as (
    select distinct
        image_id,
        subject
    from stg_case_states
    where reason is null
),

planned as (
    select distinct unit_id
    from planned_units
    where run_key = $run_key and kind = 'detect'
)

select
    s.image_id,
    i.detector,
    r.subject,
    count(distinct s.label) as labels,
    bool_or(s.score is null or not isfinite(s.score)) as unreadable,
    bool_or(s.score >= r.threshold) as hit,
    max(s.score) as score
from scores as s
inner join planned as p on s.unit_id = p.unit_id
inner join instruments as i on s.instrument_id = i.instrument_id and i.run_key = $run_key
inner join rules as r on i.detector = r.detector and s.label = r.label and r.run_key = $run_key
inner join sought as w on s.image_id = w.image_id and r.subject = w.subject
group by s.image_id, i.detector, r.subject
