-- grain: one row per run, audited cell of a defence and case whose picture is like none of the un-erased model's
create table if not exists strange_pictures (
    run_key bigint not null,
    cell_id integer not null,
    case_no integer not null
);
