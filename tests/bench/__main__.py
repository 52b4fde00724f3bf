"""`python -m tests.bench`: every benchmark in one run, as one table; ends with status 1 when a limit was missed."""

from __future__ import annotations

import platform
import warnings

import torch

from tests.bench import (
    bench_audit,
    bench_checkpoints,
    bench_dashboard,
    bench_erasers,
    bench_evidence,
    bench_guards,
    bench_memory,
    bench_neighbours,
    bench_overhead,
    bench_pipeline,
    bench_plan,
    bench_store,
    bench_suite,
)
from tests.bench.table import conclude


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    parts = (
        bench_neighbours, bench_pipeline, bench_audit, bench_erasers, bench_guards, bench_overhead, bench_memory, bench_plan,
        bench_store,
        bench_evidence, bench_checkpoints, bench_dashboard, bench_suite,
    )  # fmt: skip
    conclude(figure for part in parts for figure in part.figures())


if __name__ == "__main__":
    main()
