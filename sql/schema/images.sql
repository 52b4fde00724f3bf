-- grain: one row per generate unit and image; the pixels stay in the journal
create table if not exists images (
    unit_id bigint not null,
    image_id bigint not null,
    status varchar not null,
    error varchar,
    pixel_sha256 varchar,
    unet_calls integer,
    guard_report varchar,
    denoised_by varchar
);
