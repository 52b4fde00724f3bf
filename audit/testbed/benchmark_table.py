"""`python -m audit.testbed.benchmark_table`: a finished benchmark run beside the reported numbers, into README.md.

Everything is read from the run's journal; no model is loaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audit import locations, run
from audit.errors import AuditError, SpecError
from audit.plan.document import KINDS, planned_keys, read_outline
from audit.report import benchmark
from audit.report.markdown import render_section
from audit.report.view import Index
from audit.storage.journal import Journal
from audit.testbed import benchmark_readings
from audit.testbed.markers import BENCHMARK, replaced
from audit.verdict.results import RunResult

README = Path(__file__).parent / "README.md"


def rendered(result: RunResult) -> str:
    """Our rates with intervals and denominators next to the paper's, as Markdown.

    Raises `SpecError` when the run is no benchmark run: it lacks one of the paper's three erasers.
    """
    section = benchmark.section(Index(result))
    if section is None:
        raise SpecError(
            "this run audits nothing that M-ErasureBench reports",
            where=f"run {result.run_id}",
            next_step="run a spec with the erasers esd-*, uce and receler, such as deployments/specs/m-erasurebench-sd14.yaml",
        )
    planned = sum(cell.planned for cell in Index(result).cells.values())
    beside = render_section(benchmark_readings.section(Index(result)))
    return f"Run `{result.run_id}`, {planned:,} cases.\n\n{render_section(section)}\n\n{beside}"


def newest_finished(journal: Journal) -> str:
    """The id of the run that was planned last of those whose units are all complete. Raises `SpecError` without one."""
    done = {kind: journal.keys(kind) for kind in KINDS}
    whole = [
        (read_outline(journal, run_id).created_at, run_id)
        for run_id in journal.runs()
        if all(key in done.get(kind, ()) for kind, key in planned_keys(journal, run_id))
    ]
    if not whole:
        raise SpecError(
            "no run below this storage root is finished",
            where=str(journal.root),
            next_step="finish one: erasure-audit resume RUN; or name an unfinished one with --run",
        )
    return max(whole)[1]


def finished(root: str, run_id: str | None = None) -> RunResult:
    """The result of a run, the newest finished one unless it is named, from a fresh copy of its index.

    Raises an `AuditError` when it cannot be read.
    """
    journal = run.open_journal(root)
    run_id = run_id or newest_finished(journal)
    published = run.consolidate(journal, run_id, locations.database_path(root))
    return run.conclude(journal, run_id, published)


def main() -> None:
    """Write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="storage root of the run")
    parser.add_argument("--run", help="run id, as `erasure-audit db runs` lists it; the newest finished run without it")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    try:
        written = rendered(finished(locations.storage_root(arguments.root), arguments.run))
    except AuditError as error:
        sys.exit(f"{error}")
    arguments.readme.write_text(replaced(arguments.readme.read_text(), BENCHMARK, written))
    print(written)


if __name__ == "__main__":
    main()
