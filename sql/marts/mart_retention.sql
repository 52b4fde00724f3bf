-- grain: one row per run, defended cell of what must survive, subject and detector:
-- cases paired with the backbone's
select
    r.run_id,
    t.cell_id,
    t.concept,
    t.subject,
    t.role,
    t.defence,
    t.detector,
    t.pairs,
    t.kept,
    t.lost,
    t.gained,
    t.neither,
    t.hit_unassessed,
    t.clear_unassessed,
    t.unassessed_hit,
    t.unassessed_clear,
    t.unassessed_unassessed,
    t.noise_share,
    t.scenario,
    t.stage_no
from retention as t
inner join runs as r on t.run_key = r.run_key
