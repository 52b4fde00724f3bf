-- grain: one row per detect unit, image and instrument
create table if not exists measurements (
    unit_id bigint not null,
    image_id bigint not null,
    instrument_id bigint not null,
    status varchar not null,
    error varchar,
    has_scores boolean not null
);
