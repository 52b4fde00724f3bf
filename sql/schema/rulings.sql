-- grain: one row per filter unit and picture: whether the filter blocks it
create table if not exists rulings (
    unit_id bigint not null,
    image_id bigint not null,
    filter_id bigint not null,
    status varchar not null,
    error varchar,
    blocked boolean, -- null without a ruling
    report varchar -- JSON: what the ruling rests on
);
