-- grain: one row per counting rule that its detector cannot observe
-- fails when: a rule names an unknown detector or label, or a threshold outside what the detector can report
select
    r.run_id,
    t.detector,
    t.subject,
    t.label,
    t.threshold
from rules as t
inner join runs as r on t.run_key = r.run_key
left join instruments as i on t.run_key = i.run_key and t.detector = i.detector
where
    i.detector is null
    or not list_contains(i.labels, t.label)
    or not coalesce(t.threshold between i.score_floor and 1, false)
