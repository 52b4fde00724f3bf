-- grain: one row per run, decision on record, side of the gate, and cell and judge (or concept, defence and judge,
-- and the stage of cycles that a decision on retention may be on)
with
acts as (
    select
        r.run_id,
        v.run_key,
        v.decision_no,
        v.policy_sha256,
        v.decided_at,
        row_number() over (partition by v.run_key, v.policy_sha256 order by v.decision_no desc) = 1 as newest_of_policy,
        row_number() over (partition by v.run_key order by v.decision_no desc) = 1 as newest
    from verdicts as v
    inner join runs as r on v.run_key = r.run_key
)

select
    a.run_id,
    a.policy_sha256,
    a.decided_at,
    a.newest_of_policy,
    a.newest,
    d.decision_no,
    d.side,
    d.cell_id,
    d.concept,
    d.defence,
    d.scenario,
    d.detector,
    d.status,
    d.limit_value,
    d.low,
    d.high,
    d.reason,
    d.fields
from acts as a
inner join decisions as d on a.run_key = d.run_key and a.decision_no = d.decision_no
