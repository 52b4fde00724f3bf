"""Count the stored scores of a run again, under another policy than the one it was decided by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from audit.index.folding import fill_intervals, fill_rates
from audit.index.one_run import create_marts, open_run
from audit.index.plan_folding import counts_blocked_as
from audit.index.sql_files import relations
from audit.spec.policy import Policy

# As stg_outcomes decides: a label without a score is below the detector's floor; without a floor it was not measured.
_OUTCOMES_UNDER_POLICY = """
create table outcomes as
with seen as (
    select o.*, t.threshold as new_threshold,
        case
            when o.unfiltered = 'unassessed' or t.threshold is null then o.unfiltered
            when coalesce(o.score >= t.threshold, false) then 'hit'
            when not o.labels_complete and (i.score_floor <= 0 or t.threshold < i.score_floor) then 'unassessed'
            else 'clear'
        end as new_unfiltered
    from published.outcomes as o
    inner join published.instruments as i using (run_key, detector)
    left join overrides as t using (detector)
    where o.run_key in (select run_key from runs)
),

judged as (
    select *,
        case
            when outcome = 'blocked' then 'blocked'
            when ruling = 'undecided' then 'unassessed'
            else new_unfiltered
        end as new_outcome
    from seen
)
select * exclude (new_threshold, new_outcome, new_unfiltered) replace (
    coalesce(new_threshold, threshold) as threshold,
    case when new_outcome = 'unassessed' then coalesce(reason, 'not-measured') end as reason,
    new_unfiltered as unfiltered,
    new_outcome as outcome
)
from judged
"""


@contextlib.contextmanager
def under_policy(path: Path, run_key: int, policy: Policy) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect the block to the published index at `path`, in which the marts count one run's stored scores under `policy`.

    A case's stored score is the highest among the labels that mean its subject, so one threshold for all of them
    decides it exactly as counting every raw score would. Raises `duckdb.Error` when the index cannot be read.
    """
    counted = ("runs", "outcomes", "intervals", "crr", "retention")
    with open_run(path, run_key, without=counted) as con:
        con.execute(
            "create table runs as select * replace (?::double as confidence, ? as first_judge)"
            " from published.runs where run_key = ?",
            [policy.confidence, policy.judges[0], run_key],
        )
        con.execute("alter table runs add column if not exists counts_blocked_as varchar")  # an older index lacks it
        con.execute("update runs set counts_blocked_as = ?", [counts_blocked_as(policy.blocked)])
        con.execute("create table overrides (detector varchar, threshold double)")
        con.execute(  # a detector that the policy does not name is read at its own threshold, not at the planned policy's
            "insert into overrides select i.detector, coalesce(t.threshold, i.threshold) from published.instruments as i"
            " left join (select unnest(?::varchar[]) as detector, unnest(?::double[]) as threshold) as t using (detector)"
            " where i.run_key in (select run_key from runs)",
            [list(policy.thresholds), list(policy.thresholds.values())],
        )
        con.execute(_OUTCOMES_UNDER_POLICY)
        for table in ("intervals", "crr", "retention"):
            con.execute(relations("schema")[table])
        fill_intervals(con)
        fill_rates(con, run_key)
        create_marts(con)
        yield con
