-- grain: one row per run, defended cell of what must survive, subject and detector;
-- filled from stg_retention when a run is consolidated
create table if not exists retention (
    run_key bigint not null,
    cell_id integer not null,
    concept varchar not null,
    subject varchar not null,
    role varchar not null,
    defence varchar not null,
    detector varchar not null,
    pairs bigint not null,
    kept bigint not null,
    lost bigint not null,
    gained bigint not null,
    neither bigint not null,
    hit_unassessed bigint not null,
    clear_unassessed bigint not null,
    unassessed_hit bigint not null,
    unassessed_clear bigint not null,
    unassessed_unassessed bigint not null,
    noise_share double not null,
    scenario varchar, -- of cycles, one of whose stages the cell is
    stage_no integer
);
