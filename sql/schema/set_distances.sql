-- grain: one row per run, cell, quality instrument, baseline and metric: the distance of both sets of feature vectors
create table if not exists set_distances (
    run_key bigint not null,
    cell_id integer not null,
    instrument_id bigint not null,
    baseline varchar not null,
    metric varchar not null,
    pictures bigint not null,
    value double,
    reason varchar
);
