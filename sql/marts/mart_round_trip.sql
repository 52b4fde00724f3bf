-- grain: one row per run and cell that inverts images: quality over its cases; decibels, relative residuals
select
    r.run_id,
    c.cell_id,
    count(*) as cases,
    median(v.residual_max) as residual_median,
    max(v.residual_max) as residual_max,
    median(v.psnr_roundtrip_db) as psnr_median_db,
    min(v.psnr_roundtrip_db) as psnr_min_db,
    median(v.psnr_vae_db) as psnr_vae_median_db,
    median(v.psnr_total_db) as psnr_total_median_db,
    median(v.roundtrip_error) as roundtrip_error_median,
    median(v.latent_rms) as latent_rms,
    count(*) filter (
        where coalesce(v.status, 'missing') <> 'ok'
        or (l.gate_residual_max is not null and not coalesce(v.residual_max < l.gate_residual_max, false))
        or (
            l.gate_psnr_min_db is not null
            and not coalesce(v.psnr_roundtrip_db > l.gate_psnr_min_db and not isnan(v.psnr_roundtrip_db), false)
        )
    ) as failed_gate
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
inner join runs as r on c.run_key = r.run_key
left join inversions as v on c.invert_unit_id = v.unit_id and c.item_id = v.item_id
where c.invert_unit_id is not null
group by r.run_id, c.cell_id
