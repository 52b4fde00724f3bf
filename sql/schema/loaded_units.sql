-- grain: one row per journal unit whose rows are in this index
create table if not exists loaded_units (
    unit_id bigint not null,
    kind varchar not null,
    complete boolean not null,
    -- Of the file that the rows came from, null for a failed unit: another one means that the file was written anew.
    stamp varchar,
    loaded_rows bigint not null,
    -- Of the very file that was read: a unit listed as failed may have become complete by then.
    file_complete boolean not null,
    sha256 varchar not null,
    bytes bigint not null,
    blob_sha256 varchar,
    host varchar,
    device varchar,
    seconds double
);
