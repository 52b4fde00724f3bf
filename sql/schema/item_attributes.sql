-- grain: one row per run, reference image and attribute that the corpus says of it, such as the size of its object
create table if not exists item_attributes (
    run_key bigint not null,
    item_id bigint not null,
    attribute varchar not null,
    level_name varchar not null
);
