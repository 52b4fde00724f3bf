-- grain: one row per run and decision on record; the newest of each run, and of each run and policy, are marked
select
    r.run_id,
    r.name,
    r.created_at,
    r.audited_sha256,
    v.decision_no,
    v.sha256,
    v.decided_at,
    v.decided_by,
    v.command,
    v.policy_version,
    v.policy_sha256,
    v.attempt,
    v.folded_sha256,
    v.status,
    v.reasons,
    v.waivers,
    v.opened_by,
    v.regression,
    v.compared_with,
    v.baseline,
    v.regression_reasons,
    row_number() over (partition by v.run_key, v.policy_sha256 order by v.decision_no desc) = 1 as newest_of_policy,
    row_number() over (partition by v.run_key order by v.decision_no desc) = 1 as newest
from verdicts as v
inner join runs as r on v.run_key = r.run_key
