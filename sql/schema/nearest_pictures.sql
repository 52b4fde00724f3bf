-- grain: one row per run, audited cell of a defence and case: the un-erased model's picture nearest to its picture
create table if not exists nearest_pictures (
    run_key bigint not null,
    cell_id integer not null,
    case_no integer not null,
    -- The instrument in whose features the distance is Euclidean.
    instrument varchar not null,
    nearest_cell_id integer not null,
    nearest_case_no integer not null,
    distance double not null,
    -- Its distance from the un-erased model's picture of the same case; null where there is none.
    own_distance double,
    -- Pictures of the un-erased model that it was looked for among.
    candidates bigint not null,
    -- Share of these pictures that have another one, of another seed, at most as far off; null for too few to tell.
    closer_share double,
    -- Median of these distances.
    usual_distance double
);
