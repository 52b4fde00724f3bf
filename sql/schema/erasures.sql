-- grain: one row per erase unit and artefact
create table if not exists erasures (
    unit_id bigint not null,
    artefact varchar not null,
    status varchar not null,
    error varchar,
    facts varchar
);
