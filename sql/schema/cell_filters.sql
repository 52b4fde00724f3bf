-- grain: one row per run, cell and filter that decides which of its pictures are handed out
create table if not exists cell_filters (
    run_key bigint not null,
    cell_id integer not null,
    filter_id bigint not null,
    filter varchar not null
);
