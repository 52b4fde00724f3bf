-- grain: one row per run and detector whose record contradicts another record of the same instrument or name
-- fails when: an instrument identity stands for different weights or code, or one name for two instruments
with
described as (
    select
        i.instrument_id,
        count(distinct row(i.kind, i.version, i.package, i.weights_sha256, i.preprocessing, i.labels, i.score_floor))
            as descriptions
    from instruments as i
    group by i.instrument_id
),

named as (
    select
        run_key,
        detector,
        count(*) as records
    from instruments
    group by run_key, detector
)

select
    r.run_id,
    i.detector,
    i.instrument_id,
    d.descriptions,
    n.records
from instruments as i
inner join runs as r on i.run_key = r.run_key
inner join described as d on i.instrument_id = d.instrument_id
inner join named as n on i.run_key = n.run_key and i.detector = n.detector
where d.descriptions > 1 or n.records > 1
