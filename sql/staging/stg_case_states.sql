-- grain: one row per cell and case of the run $run_key, with the reason why its picture cannot be assessed, if any
select
    c.cell_id,
    c.case_no,
    c.image_id,
    c.unit_id,
    coalesce(c.subject, l.subject) as subject,
    case
        when g.status is null then 'missing'
        when g.status <> 'ok' then g.status
        when c.invert_unit_id is null then null
        when v.status is null then 'missing'
        when v.status = 'error' then 'error'
        when v.status <> 'ok' then 'round-trip'
        when
            l.gate_residual_max is not null
            and not coalesce(v.residual_max < l.gate_residual_max, false)
            then 'round-trip'
        -- NaN sorts above every number, so it has to be named.
        when
            l.gate_psnr_min_db is not null
            and not coalesce(v.psnr_roundtrip_db > l.gate_psnr_min_db and not isnan(v.psnr_roundtrip_db), false)
            then 'round-trip'
    end as reason,
    coalesce(g.error, v.error) as error
from cases as c
inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
left join images as g on c.unit_id = g.unit_id and c.image_id = g.image_id
left join inversions as v on c.invert_unit_id = v.unit_id and c.item_id = v.item_id
where c.run_key = $run_key
