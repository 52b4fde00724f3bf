-- grain: one row per consolidated run
create table if not exists runs (
    run_key bigint not null,
    run_id varchar not null,
    name varchar not null,
    created_at varchar not null,
    -- Runs of one system form a series; without a system in the spec, runs of one name do.
    system varchar not null,
    system_version varchar,
    owner varchar,
    contact varchar,
    backbone_sha256 varchar,
    corpus_sha256 varchar,
    -- The run whose pictures this one scores again for a comparison; it is part of no series.
    derived_from varchar,
    confidence double not null,
    first_judge varchar not null,
    -- What the policy takes a picture for that a filter blocks: clear | unassessed.
    counts_blocked_as varchar not null default 'clear',
    plan_sha256 varchar not null,
    -- Of backbone, concepts and defences: runs that share it are attempts at the same claim.
    audited_sha256 varchar not null,
    spec varchar not null,
    provenance varchar not null,
    outcomes_current boolean not null
);
