-- grain: one row per run and decision on record
create table if not exists verdicts (
    run_key bigint not null,
    decision_no integer not null,
    sha256 varchar not null,
    decided_at varchar not null,
    decided_by varchar not null,
    command varchar not null,
    policy_version varchar not null,
    policy_sha256 varchar not null,
    attempt integer not null,
    folded_sha256 varchar,
    status varchar not null,
    -- JSON lists of sentences.
    reasons varchar not null,
    waivers varchar not null,
    -- The decisions that signed waivers covered when the gate was opened in spite of the status; empty when it was not.
    opened_by varchar not null,
    -- What a comparison with an earlier run showed, of which the worse one counts; null without one.
    regression varchar,
    compared_with varchar,
    baseline varchar,
    regression_reasons varchar
);
