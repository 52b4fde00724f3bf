-- grain: one row per run and instrument
create table if not exists instruments (
    run_key bigint not null,
    instrument_id bigint not null,
    detector varchar not null,
    kind varchar not null,
    version varchar not null,
    package varchar not null,
    weights_sha256 varchar not null,
    preprocessing varchar not null,
    labels varchar[] not null,
    score_floor double not null,
    threshold double not null,
    parameters varchar not null
);
