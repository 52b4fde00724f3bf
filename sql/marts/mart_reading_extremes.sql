-- grain: one row per run, instrument, status and label for each of the lowest, the highest and a missing raw score
-- A range that holds for these rows holds for every raw score of the run.
with
readings as (
    select
        u.run_key,
        m.instrument_id,
        m.status,
        m.image_id,
        s.label,
        s.score
    from measurements as m
    inner join planned_units as u on m.unit_id = u.unit_id
    left join scores as s
        on m.unit_id = s.unit_id and m.image_id = s.image_id and m.instrument_id = s.instrument_id
    where u.kind = 'detect'
),

extremes as (
    select
        run_key,
        instrument_id,
        status,
        label,
        -- The picture's identity breaks ties, so that a rebuilt index gives the same rows.
        min({ 'score': score, 'image_id': image_id }) filter (where score is not null) as lowest,
        max({ 'score': score, 'image_id': image_id }) filter (where score is not null) as highest,
        min(image_id) filter (where score is null) as missing_image_id
    from readings
    group by run_key, instrument_id, status, label
),

listed as (
    select
        run_key,
        struct_extract(lowest, 'image_id') as image_id,
        instrument_id,
        status,
        label,
        struct_extract(lowest, 'score') as score
    from extremes
    where lowest is not null
    union all
    select
        run_key,
        struct_extract(highest, 'image_id') as image_id,
        instrument_id,
        status,
        label,
        struct_extract(highest, 'score') as score
    from extremes
    where highest is not null
    union all
    select
        run_key,
        missing_image_id as image_id,
        instrument_id,
        status,
        label,
        null as score
    from extremes
    where missing_image_id is not null
)

select
    r.run_id,
    e.image_id,
    e.instrument_id,
    e.status,
    e.label,
    e.score
from listed as e
inner join runs as r on e.run_key = r.run_key
