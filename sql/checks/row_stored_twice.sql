-- grain: one row per unit and subject of a row that the unit's file holds more than once
-- fails when: a journal file holds the same picture, measurement, inversion or attack twice
with
stored as (
    select
        unit_id,
        image_id as row_id,
        0 as instrument_id
    from images
    union all
    select
        unit_id,
        image_id as row_id,
        instrument_id
    from measurements
    union all
    select
        unit_id,
        item_id as row_id,
        0 as instrument_id
    from inversions
    union all
    select
        unit_id,
        item_id as row_id,
        0 as instrument_id
    from attacks
)

select
    r.run_id,
    u.kind,
    u.unit_key,
    s.row_id,
    count(*) as times
from stored as s
inner join planned_units as u on s.unit_id = u.unit_id
inner join runs as r on u.run_key = r.run_key
group by r.run_id, u.kind, u.unit_key, s.row_id, s.instrument_id
having count(*) > 1
