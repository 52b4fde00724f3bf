-- grain: one row per run whose outcomes are older than its units
-- fails when: a consolidation was interrupted and has not been finished
select
    run_id,
    created_at
from runs
where not outcomes_current
