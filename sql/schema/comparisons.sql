-- grain: one row per run, cell and baseline that its pictures are measured against, case by case
-- `regions` says whether the concept's region in them is known.
create table if not exists comparisons (
    run_key bigint not null,
    cell_id integer not null,
    baseline varchar not null,
    baseline_cell_id integer,
    regions boolean not null
);
