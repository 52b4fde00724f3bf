"""Print how long the pages of the dashboard and the queries of a report take from an index of 10 million outcomes.

python -m tests.bench.bench_dashboard [--outcomes 10000000]
"""

from __future__ import annotations

import argparse
import datetime as dt
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import duckdb

from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.dashboard.site import answer
from audit.index import queries
from audit.index.copies import open_copy
from tests.bench.table import Figure, conclude
from tests.history import History, write

LIMIT = 1.0  # seconds
TRIES = 3
NOW = dt.datetime(2026, 11, 29, 12, 0, tzinfo=dt.UTC)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=10_000_000)
    conclude(figures(parser.parse_args().outcomes))


def figures(outcomes: int = 10_000_000) -> Iterator[Figure]:
    """Yield what each page costs without its pictures, the fastest of some tries, and what a report's queries cost."""
    plain = History()
    history = History(cases=-(-outcomes // (plain.runs * plain.cells * len(plain.judges))))
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name), history)
        con = open_copy(path)
        context = Context(con, NOW, LiveLinks(), index=path.name)
        ((held,),) = con.execute("select count(*) from outcomes").fetchall()
        how = f"{held:,} outcomes, {path.stat().st_size / 1e6:,.0f} MB"
        yield Figure("overview", _seconds(context, "overview", {}), "{:.2f} s", LIMIT, how)
        runs = [run.run_id for run in history.planned_runs if run.system == 0]
        place = {"system": history.systems[0], "concept": history.concepts[0], "defence": "uce", "scenario": "inverted"}
        for page, query in (
            ("runs", {}),
            ("run", {"run": runs[-1]}),
            ("trend", place),
            ("compare", {"old": runs[0], "new": runs[1]}),
            ("case", {"run": runs[-1], "cell": "7", "case": "3"}),
            ("instruments", {}),
            ("evidence", {}),
        ):
            yield Figure(page, _seconds(context, page, query), "{:.2f} s", LIMIT)
        con.close()
        with queries.open_counted(path, runs[-1]) as counted:
            timed = Timed(counted)
            queries.read_counted(cast("duckdb.DuckDBPyConnection", timed), runs[-1])
            slowest = max(timed.seconds, key=lambda sql: timed.seconds[sql])
            yield Figure(
                "slowest query of a report", timed.seconds[slowest], "{:.2f} s", LIMIT, " ".join(slowest.split())[:60]
            )
            yield Figure(
                "all queries of a report",
                sum(timed.seconds.values()),
                "{:.2f} s",
                None,
                f"{len(timed.seconds)} of them",
            )


class Timed:
    """A connection to one run of an index that notes how long each statement takes."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con, self.seconds = con, dict[str, float]()

    def execute(self, sql: str, *values: Any) -> duckdb.DuckDBPyConnection:
        """Execute a statement and note its time."""
        began = time.perf_counter()
        answer = self._con.execute(sql, *values)
        self.seconds[sql] = self.seconds.get(sql, 0.0) + time.perf_counter() - began
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)


def _seconds(context: Context, page: str, query: dict[str, str]) -> float:
    taken = []
    for _ in range(TRIES):
        start = time.perf_counter()
        assert answer(context, page, query).status == 200
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
