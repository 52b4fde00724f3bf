-- grain: one row per run, cell, case and instrument; filled from stg_outcomes when a run is consolidated
create table if not exists outcomes (
    run_key bigint not null,
    cell_id integer not null,
    case_no integer not null,
    image_id bigint not null,
    unit_id bigint not null,
    instrument_id bigint not null,
    detector varchar not null,
    threshold double not null,
    outcome varchar not null, -- hit | clear | blocked | unassessed
    ruling varchar, -- of the cell's filters: passed | blocked | undecided; null without filters
    unfiltered varchar not null, -- the outcome as it would be without filters
    reason varchar,
    score double,
    labels_complete boolean not null,
    error varchar
);
