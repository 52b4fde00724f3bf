-- grain: one row per cell with filters and case of the run $run_key: what its filters decide together
-- A case is handed out when every filter lets it pass; one that blocks it decides, whatever the others say.
with
ruled as (
    select
        m.image_id,
        m.filter_id,
        bool_or(coalesce(m.status = 'ok' and m.blocked, false)) as blocked,
        bool_and(coalesce(m.status = 'ok' and m.blocked is not null, false)) as known,
        min(m.error) as error
    from rulings as m
    inner join planned_units as u on m.unit_id = u.unit_id and u.run_key = $run_key and u.kind = 'filter'
    group by m.image_id, m.filter_id
)

select
    s.cell_id,
    s.case_no,
    case
        when s.reason is not null then 'undecided'
        when bool_or(coalesce(r.blocked, false)) then 'blocked'
        when bool_and(coalesce(r.known, false)) then 'passed'
        else 'undecided'
    end as ruling,
    min(r.error) as error
from stg_case_states as s
inner join cell_filters as f on f.run_key = $run_key and s.cell_id = f.cell_id
left join ruled as r on s.image_id = r.image_id and f.filter_id = r.filter_id
group by s.cell_id, s.case_no, s.reason
