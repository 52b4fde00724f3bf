-- grain: one row per run, decision on record, side of the gate, and cell and judge (or concept, defence and judge)
create table if not exists decisions (
    run_key bigint not null,
    decision_no integer not null,
    side varchar not null, -- crr | retention | damage | blocking
    cell_id integer,
    concept varchar not null,
    defence varchar not null,
    scenario varchar,
    detector varchar not null,
    status varchar not null,
    limit_value double not null, -- highest rate, lowest share kept, level of the damage test, or highest share blocked
    low double,
    high double, -- null: not bounded
    reason varchar not null,
    fields varchar not null -- all of the decision as JSON
);
