-- grain: one row per run and cell of a defence's benign prompts, at a stage of cycles or not:
-- its pictures as a set against the un-erased model's
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
