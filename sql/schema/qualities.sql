-- grain: one row per quality unit, picture and baseline; decibels for psnr, infinite for equal pictures
create table if not exists qualities (
    unit_id bigint not null,
    image_id bigint not null,
    instrument_id bigint not null,
    baseline varchar not null,
    baseline_image_id bigint,
    metric varchar not null,
    status varchar not null,
    error varchar,
    value double
);
