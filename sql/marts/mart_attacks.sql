-- grain: one row per run, method, concept and attacked model: what was searched for, and at what cost
with
used as (
    select
        c.run_key,
        c.attack_unit_id as unit_id,
        string_agg(distinct l.scenario, ', ' order by l.scenario) as scenarios,
        string_agg(distinct l.defence, ', ' order by l.defence) as defences,
        bool_and(l.control is not distinct from 'unlearned') as is_control
    from cases as c
    inner join cells as l on c.run_key = l.run_key and c.cell_id = l.cell_id
    where c.attack_unit_id is not null
    group by c.run_key, c.attack_unit_id
)

select
    r.run_id,
    u.scenarios,
    u.defences,
    coalesce(u.is_control, false) as is_control,
    json_extract_string(a.report, '$.method') as attack_method,
    json_extract_string(a.report, '$.version') as attack_version,
    json_extract_string(a.report, '$.concept') as concept,
    json_extract_string(a.report, '$.model') as attacked_model,
    count(*) as items,
    count(*) filter (where a.status = 'ok') as found,
    min(a.score) filter (where isfinite(a.score)) as score_min,
    max(a.score) filter (where isfinite(a.score)) as score_max,
    sum(a.evaluations)::bigint as evaluations,
    sum(a.unet_calls)::bigint as unet_calls,
    min(a.error) as error,
    -- Of several finds, the summary of the one with the best score; a file that was brought has none.
    coalesce(
        arg_min(json_extract_string(a.report, '$.summary'), a.score) filter (where isfinite(a.score)),
        min(json_extract_string(a.report, '$.summary'))
    ) as attack_summary
from attacks as a
inner join planned_units as p on a.unit_id = p.unit_id and p.kind = 'attack'
inner join runs as r on p.run_key = r.run_key
left join used as u on p.run_key = u.run_key and a.unit_id = u.unit_id
-- Random tokens beside a search for tokens are its control, and no find, whether they could be drawn or not.
where not starts_with(a.item, 'random-')
group by r.run_id, u.scenarios, u.defences, u.is_control, attack_method, attack_version, concept, attacked_model
