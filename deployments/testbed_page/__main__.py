"""`python -m deployments.testbed_page BLOCK --root ROOT`: write a finished run's tables into audit/testbed/README.md.

The block `architectures` is of two runs, the second one below `--beside`, and `probes` may be; either may be the JSON report
of a run whose storage is elsewhere. Everything is read from the runs' indices; no model is loaded. A block of the page stands
between markers with its name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audit import locations, run
from audit.errors import AuditError, SpecError, StoreError
from audit.plan.document import KINDS, planned_keys, read_outline
from audit.report import json_report
from audit.storage.journal import Journal
from audit.testbed.markers import replaced
from audit.verdict.results import RunResult
from deployments.testbed_page import architectures, benchmark, erasers, failures, guards, probes, rates

README = Path(__file__).parents[2] / "audit" / "testbed" / "README.md"
BLOCKS = {
    "erasers": erasers.block,
    "failures": failures.block,
    "guards": guards.block,
    **dict.fromkeys(("probes", "probes-words", "sd3-probes"), probes.block),
    **dict.fromkeys(("cycles", "drawings", "filters", "sd3-audit", "sd3-cycles", "styles"), rates.block),
    "benchmark": benchmark.block,
    "benchmark-sd3": benchmark.block,
}
ARCHITECTURES = "architectures"
OF_TWO_RUNS = {
    ARCHITECTURES: architectures.block,
    "probes": lambda result, beside: probes.block(result, beside=beside),
}


def newest_finished(journal: Journal) -> str:
    """Return the id of the run that was planned last of those whose units are all complete. Raises `SpecError` without one."""
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


def concluded(root: str, run_id: str | None = None) -> tuple[RunResult, Path]:
    """Return a run, the newest finished one unless it is named, with a fresh copy of its index.

    Raises an `AuditError` when the run cannot be read.
    """
    journal = run.open_journal(root)
    run_id = run_id or newest_finished(journal)
    published = run.consolidate(journal, run_id, locations.database_path(root))
    return run.conclude(journal, run_id, published), published


def written(name: str, root: str, run_id: str | None = None, beside: str | None = None) -> str:
    """Return the block `name` of a run, the newest finished one unless it is named, and of that below `beside`.

    Raises an `AuditError` when a run cannot be read, or is none of which the block tells, and `SpecError` when `beside` is
    missing or idle.
    """
    if name == ARCHITECTURES and beside is None:
        raise SpecError(
            f"the block {ARCHITECTURES} compares two runs",
            where="--beside",
            next_step="name the other backbone's root there",
        )
    if beside is not None and name not in OF_TWO_RUNS:
        raise SpecError(
            f"the block {name} is of one run",
            where="--beside",
            next_step=f"leave it out; only {' and '.join(OF_TWO_RUNS)} take it",
        )
    if beside is not None:
        return OF_TWO_RUNS[name](_reported(root, run_id), _reported(beside))
    return BLOCKS[name](*concluded(root, run_id))


def _reported(root: str, run_id: str | None = None) -> RunResult:
    """Return a run below a storage root, or that of a JSON report."""
    if not root.endswith(".json"):
        return concluded(root, run_id)[0]
    try:
        return json_report.parse(Path(root).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the report cannot be read: {error}",
            where=root,
            next_step="write it: erasure-audit report RUN --format json",
        ) from None


def main() -> None:
    """Write one block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("block", choices=[*BLOCKS, ARCHITECTURES])
    parser.add_argument("--root", help="storage root of the run")
    parser.add_argument("--run", help="run id, as `erasure-audit db runs` lists it; the newest finished run without it")
    parser.add_argument(
        "--beside",
        help=f"storage root or JSON report of a second run: on another backbone ({ARCHITECTURES}), of another concept (probes)",
    )
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    try:
        beside = arguments.beside and locations.storage_root(arguments.beside)
        text = written(arguments.block, locations.storage_root(arguments.root), arguments.run, beside)
    except AuditError as error:
        sys.exit(f"{error}")
    arguments.readme.write_text(replaced(arguments.readme.read_text(), f"{arguments.block}-table", text))
    print(text)


if __name__ == "__main__":
    main()
