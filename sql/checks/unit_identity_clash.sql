-- grain: one row per pair of units that share a shortened identity
-- fails when: two different units have the same 63-bit identity
select
    r.run_id,
    u.unit_id,
    count(distinct u.unit_key) as unit_keys
from planned_units as u
inner join runs as r on u.run_key = r.run_key
group by r.run_id, u.unit_id
having count(distinct u.unit_key) > 1 or count(*) > 1
