-- grain: one row per distinct hits, assessed and confidence that mart_crr needs an interval for
with
counted as (
    select
        o.run_key,
        count(*) filter (where o.outcome = 'hit') as hits,
        count(*) filter (where o.outcome in ('hit', 'clear', 'blocked')) as assessed
    from outcomes as o
    -- Runs that have their rates already need not be counted again.
    where o.run_key not in (select c.run_key from crr as c)
    group by o.run_key, o.cell_id, o.detector
    union all
    select
        run_key,
        hits,
        assessed
    from crr
    where planned > 0
)

select distinct
    c.hits,
    c.assessed,
    r.confidence
from counted as c
inner join runs as r on c.run_key = r.run_key
