-- grain: one row per detect unit, image, instrument and raw score; boxes in pixels, null for whole-image scores
create table if not exists scores (
    unit_id bigint not null,
    image_id bigint not null,
    instrument_id bigint not null,
    score_no integer not null,
    label varchar,
    score double,
    x double,
    y double,
    w double,
    h double
);
