"""Print how long the pages of the dashboard take from an index of 10 million outcomes.

python -m tests.bench.bench_dashboard [--outcomes 10000000]
"""

from __future__ import annotations

import argparse
import datetime as dt
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.dashboard.site import answer
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
    """Yield what each page costs without its pictures, the fastest of some tries; the overview's has a goal."""
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
            yield Figure(page, _seconds(context, page, query), "{:.2f} s")
        con.close()


def _seconds(context: Context, page: str, query: dict[str, str]) -> float:
    taken = []
    for _ in range(TRIES):
        start = time.perf_counter()
        assert answer(context, page, query).status == 200
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
