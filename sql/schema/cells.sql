-- grain: one row per run and cell
create table if not exists cells (
    run_key bigint not null,
    cell_id integer not null,
    concept varchar not null,
    subject varchar not null,
    role varchar not null,
    control varchar,
    defence varchar not null,
    scenario varchar not null,
    kind varchar not null,
    planned bigint not null,
    perturbation varchar,
    strength double,
    sensitive boolean not null,
    gate_residual_max double,
    gate_psnr_min_db double
);
