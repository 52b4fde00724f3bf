-- grain: one row per run, detector, subject and label that counts as the subject
create table if not exists rules (
    run_key bigint not null,
    detector varchar not null,
    subject varchar not null,
    label varchar not null,
    threshold double not null
);
