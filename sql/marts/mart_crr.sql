-- grain: one row per run, cell and detector: the concept reproduction rate with its denominator and bounds
select
    r.run_id,
    c.cell_id,
    c.concept,
    c.subject,
    c.role,
    c.control,
    c.defence,
    c.scenario,
    c.detector,
    c.instrument_id,
    c.threshold,
    c.planned,
    c.assessed,
    c.unassessed,
    c.hits,
    c.rate,
    c.ci_low,
    c.ci_high,
    c.worst_case,
    c.confidence,
    c.perturbation,
    c.strength,
    c.strange_hits,
    c.strange,
    c.kind
from crr as c
inner join runs as r on c.run_key = r.run_key
