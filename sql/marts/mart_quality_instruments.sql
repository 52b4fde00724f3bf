-- grain: one row per run and quality instrument: everything that determines its numbers
select
    r.run_id,
    i.instrument_id,
    i.instrument,
    i.kind,
    i.version,
    i.package,
    i.weights_sha256,
    i.preprocessing,
    i.metrics,
    i.parameters
from quality_instruments as i
inner join runs as r on i.run_key = r.run_key
