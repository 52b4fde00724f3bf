-- grain: one row per run, cell and case
create table if not exists cases (
    run_key bigint not null,
    cell_id integer not null,
    case_no integer not null,
    image_id bigint not null,
    unit_id bigint not null,
    seed bigint not null,
    prompt varchar,
    prompt_key varchar,
    guidance double,
    problem varchar,
    subject varchar,
    item_id bigint,
    item_uri varchar,
    invert_unit_id bigint,
    attack_unit_id bigint,
    attack_item_id bigint
);
