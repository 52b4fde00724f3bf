-- grain: one row per run, decision on record and data check
create table if not exists check_results (
    run_key bigint not null,
    decision_no integer not null,
    name varchar not null,
    source varchar not null,
    status varchar not null,
    detail varchar not null,
    offending_rows bigint not null
);
