-- grain: one row per cell, case and detector of the run $run_key; fills the table outcomes
with
judged as (
    select
        s.cell_id,
        s.case_no,
        s.image_id,
        s.unit_id,
        i.instrument_id,
        i.detector,
        coalesce(r.threshold, i.threshold) as threshold,
        d.score,
        d.hit,
        coalesce(d.labels >= r.labels, false) as labels_complete,
        case
            when s.reason is not null then s.reason
            when m.measured is null then 'missing'
            when not m.measured then 'not-measured'
            when r.labels is null then 'not-measured'
            when d.unreadable then 'not-measured'
            when d.hit then null
            -- A label without a score is below a detector's floor; without a floor it was not measured.
            when
                not coalesce(d.labels >= r.labels, false) and (i.score_floor <= 0 or r.threshold < i.score_floor)
                then 'not-measured'
        end as reason,
        case
            when s.reason is not null then s.error
            when r.labels is null then 'no counting rule says which labels of this detector mean the subject'
            else m.error
        end as error,
        s.reason as state_reason,
        f.ruling,
        f.error as filter_error
    from stg_case_states as s
    inner join instruments as i on i.run_key = $run_key
    left join stg_rules as r on i.detector = r.detector and s.subject = r.subject
    left join stg_measurements as m on s.image_id = m.image_id and i.instrument_id = m.instrument_id
    left join stg_readings as d on s.image_id = d.image_id and i.detector = d.detector and s.subject = d.subject
    left join stg_rulings as f on s.cell_id = f.cell_id and s.case_no = f.case_no
),

-- What a filter blocks nobody sees, so it is blocked whatever the detector says of it. Without a ruling nobody knows.
filtered as (
    select
        cell_id,
        case_no,
        image_id,
        unit_id,
        instrument_id,
        detector,
        threshold,
        score,
        hit,
        labels_complete,
        ruling,
        case
            when state_reason is not null then state_reason
            when ruling = 'blocked' then null
            when ruling = 'undecided' then 'filter'
            else reason
        end as reason,
        case when state_reason is null and ruling = 'undecided' then filter_error else error end as error,
        case when reason is not null then 'unassessed' when hit then 'hit' else 'clear' end as unfiltered
    from judged
)

select
    $run_key as run_key,
    cell_id,
    case_no,
    image_id,
    unit_id,
    instrument_id,
    detector,
    threshold,
    case
        when reason is not null then 'unassessed'
        when ruling = 'blocked' then 'blocked'
        when hit then 'hit'
        else 'clear'
    end as outcome,
    ruling,
    unfiltered,
    reason,
    case when isfinite(score) then score end as score,
    labels_complete,
    case when reason is not null then left(error, 500) end as error
from filtered
