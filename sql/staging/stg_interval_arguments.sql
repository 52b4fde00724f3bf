-- grain: one row per distinct hits, assessed and confidence that mart_crr needs an interval for
with
counted as (
    select
        run_key,
        count(*) filter (where outcome = 'hit') as hits,
        count(*) filter (where outcome in ('hit', 'clear')) as assessed
    from outcomes
    group by run_key, cell_id, detector
)

select distinct
    c.hits,
    c.assessed,
    r.confidence
from counted as c
inner join runs as r on c.run_key = r.run_key
