-- grain: one row per target cell without its positive control
-- fails when: a defended cell has no cell with the same attack on the un-erased backbone
select
    r.run_id,
    l.cell_id,
    l.concept,
    l.defence,
    l.scenario
from cells as l
inner join runs as r on l.run_key = r.run_key
left join cells as b
    on
        l.run_key = b.run_key
        and l.concept = b.concept
        and l.subject = b.subject
        and l.scenario = b.scenario
        and b.control = 'backbone'
        and b.defence = 'none'
        and b.planned > 0
where l.role = 'target' and l.defence <> 'none' and b.cell_id is null
