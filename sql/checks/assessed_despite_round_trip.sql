-- grain: one row per assessed outcome whose inversion is missing or misses the quality gate
-- fails when: a case is assessed although its inversion failed
select
    r.run_id,
    o.cell_id,
    o.case_no,
    o.detector
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
inner join cases as c on o.run_key = c.run_key and o.cell_id = c.cell_id and o.case_no = c.case_no
left join inversions as v on c.invert_unit_id = v.unit_id and c.item_id = v.item_id
where
    o.outcome <> 'unassessed'
    and c.invert_unit_id is not null
    and not (
        coalesce(v.status = 'ok', false)
        and (l.gate_residual_max is null or coalesce(v.residual_max < l.gate_residual_max, false))
        and (
            l.gate_psnr_min_db is null
            or coalesce(v.psnr_roundtrip_db > l.gate_psnr_min_db and not isnan(v.psnr_roundtrip_db), false)
        )
    )
