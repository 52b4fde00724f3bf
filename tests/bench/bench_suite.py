"""How long `make test` takes, against ten minutes.

python -m tests.bench.bench_suite

For a machine with two cores on which nothing else runs.
"""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path

from tests.bench.table import Figure, conclude

GOAL = 600.0  # seconds
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measure and print."""
    conclude(figures())


def figures() -> list[Figure]:
    """Return the time of the suite as a ratio; not a number, which misses the goal, where a test failed."""
    started = time.perf_counter()
    done = subprocess.run(["make", "test"], cwd=ROOT, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    lines = done.stdout.strip().splitlines()
    told = lines[-1].strip("= ") if lines else f"make ended with status {done.returncode}"
    ratio = seconds / GOAL if done.returncode == 0 else math.nan
    return [Figure("make test / ten minutes", ratio, "{:.2f}x", 1.0, f"{told}; one run")]


if __name__ == "__main__":
    main()
