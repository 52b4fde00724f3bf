-- grain: one row per run and benign cell of a defence: its pictures as a set against the un-erased model's
create table if not exists picture_checks (
    run_key bigint not null,
    cell_id integer not null,
    instrument varchar not null,
    pictures bigint not null,
    distance double,
    reference double,
    p_value double,
    reason varchar
);
