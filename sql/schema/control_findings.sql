-- grain: one row per run, decision on record, control and detector
create table if not exists control_findings (
    run_key bigint not null,
    decision_no integer not null,
    control varchar not null,
    concept varchar not null,
    subject varchar not null,
    defence varchar not null,
    scenario varchar not null,
    detector varchar not null,
    cell_id integer,
    at_least double,
    at_most double,
    holds boolean,
    trouble varchar
);
