-- grain: one row per invert unit and corpus item; decibels, relative residuals
create table if not exists inversions (
    unit_id bigint not null,
    item_id bigint not null,
    item varchar not null,
    status varchar not null,
    error varchar,
    residual_max double,
    residual_mean double,
    passes_mean double,
    unet_calls integer,
    roundtrip_error double,
    psnr_roundtrip_db double,
    psnr_vae_db double,
    psnr_total_db double,
    latent_rms double,
    latent_autocorr double,
    nll_per_dim double
);
