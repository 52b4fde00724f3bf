"""Series of runs: those of one system, oldest to newest."""

from __future__ import annotations

from pathlib import Path

from audit.index.published import open_published
from audit.index.store import explained


def newest_runs(published: Path) -> list[str]:
    """Return the newest run of each system in a published index."""
    con = open_published(published)
    try:
        with explained(published):
            rows = con.execute(
                "select run_id from mart_runs"
                " qualify row_number() over (partition by system order by created_at desc, run_id desc) = 1 order by system"
            ).fetchall()
    finally:
        con.close()
    return [str(run_id) for (run_id,) in rows]
