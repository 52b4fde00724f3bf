"""Print how long it takes to seal a run of 15,000 outcomes, and to verify the bundle.

python -m tests.bench.bench_evidence [--outcomes 15000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from audit.evidence.seal import seal
from audit.evidence.verify import verify
from audit.storage.journal import Journal
from tests.bench.table import Figure, conclude
from tests.evidence.bundles import NOW, SEALED, Audit, decide, key_pair, published
from tests.synthetic import cell, control

LIMIT = 2.0  # seconds, for each of both


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=15_000)
    conclude(figures(parser.parse_args().outcomes))


def figures(outcomes: int = 15_000) -> Iterator[Figure]:
    """Yield what a bundle costs, beside the goals; imports of libraries are not counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        controls = (control(2, 100, "backbone", scenario="text"), control(3, 100, "reference"))
        targets = [cell(n, (outcomes - 200) // 2, sensitive=True) for n in range(2)]
        audit, journal = Audit(cells=[*targets, *controls], unit_size=16, hits=900), Journal(str(folder / "journal"))
        audit.write(journal)
        index = decide(audit, journal, published(audit, journal, folder), folder)
        private, public = key_pair(folder)
        start, used = time.perf_counter(), time.process_time()
        sealed = seal(journal, audit.run_id, index, private, folder / "bundle", SEALED)
        how = (
            f"{sealed.units:,} units, {sealed.bytes / 1000:,.0f} kB, {time.process_time() - used:.1f} s of a processor"
        )
        yield Figure(f"seal {outcomes:,} outcomes", time.perf_counter() - start, "{:.1f} s", LIMIT, how)
        start, used = time.perf_counter(), time.process_time()
        found = verify(folder / "bundle", [public], now=NOW)
        taken, how = time.perf_counter() - start, f"{time.process_time() - used:.1f} s of a processor"
        assert found.holds, found.lines
        yield Figure(f"verify {outcomes:,} outcomes", taken, "{:.1f} s", LIMIT, how)


if __name__ == "__main__":
    main()
