-- grain: one row per run and cell that inverts undisturbed images: how Gaussian its latents are; nats per dimension
-- Latents that missed the round trip's gate are left out, as their cases are unassessed; mart_round_trip counts them.
-- Under N(0, I) the negative log-likelihood is 1.419 nats per dimension, the root mean square 1, the autocorrelation 0.
select
    r.run_id,
    c.cell_id,
    count(*) as latents,
    quantile_cont(v.nll_per_dim, 0.1) as nll_low,
    median(v.nll_per_dim) as nll_median,
    quantile_cont(v.nll_per_dim, 0.9) as nll_high,
    median(v.latent_rms) as rms_median,
    median(v.latent_autocorr) as autocorr_median
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
inner join runs as r on c.run_key = r.run_key
inner join inversions as v on c.invert_unit_id = v.unit_id and c.item_id = v.item_id
where
    l.perturbation is null
    and v.status = 'ok'
    and (l.gate_residual_max is null or coalesce(v.residual_max < l.gate_residual_max, false))
    and (
        l.gate_psnr_min_db is null
        or coalesce(v.psnr_roundtrip_db > l.gate_psnr_min_db and not isnan(v.psnr_roundtrip_db), false)
    )
group by r.run_id, c.cell_id
