-- grain: one row per outcome that is not exactly one of hit, clear, blocked and unassessed with a known reason
-- fails when: an outcome is ambiguous: an unknown word, a hit without a score, or a reason where none belongs
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector,
    o.outcome,
    o.reason
from outcomes as o
inner join runs as r on o.run_key = r.run_key
where
    o.outcome not in ('hit', 'clear', 'blocked', 'unassessed')
    or o.unfiltered not in ('hit', 'clear', 'unassessed')
    or (o.outcome = 'hit' and o.score is null)
    or (o.outcome = 'unassessed') <> (o.reason is not null)
    or o.reason not in (
        'missing', 'error', 'unreadable', 'degenerate', 'round-trip', 'blocked', 'not-measured', 'filter'
    )
