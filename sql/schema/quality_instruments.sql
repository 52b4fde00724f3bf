-- grain: one row per run and quality instrument
create table if not exists quality_instruments (
    run_key bigint not null,
    instrument_id bigint not null,
    instrument varchar not null,
    kind varchar not null,
    version varchar not null,
    package varchar not null,
    weights_sha256 varchar not null,
    preprocessing varchar not null,
    metrics varchar[] not null,
    parameters varchar not null
);
