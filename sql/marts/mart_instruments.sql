-- grain: one row per run and detector: everything that determines its readings
select
    r.run_id,
    i.instrument_id,
    i.detector,
    i.kind,
    i.version,
    i.package,
    i.weights_sha256,
    i.preprocessing,
    i.labels,
    i.score_floor,
    i.threshold,
    i.parameters
from instruments as i
inner join runs as r on i.run_key = r.run_key
