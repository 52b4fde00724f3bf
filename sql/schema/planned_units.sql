-- grain: one row per run and unit of work
create table if not exists planned_units (
    run_key bigint not null,
    unit_id bigint not null,
    kind varchar not null,
    unit_key varchar not null,
    planned_rows integer not null
);
