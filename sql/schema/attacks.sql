-- grain: one row per attack unit and item that it searched for
create table if not exists attacks (
    unit_id bigint not null,
    item_id bigint not null,
    item varchar not null,
    status varchar not null,
    error varchar,
    prompt varchar,
    score double,
    evaluations bigint,
    unet_calls bigint,
    report varchar
);
