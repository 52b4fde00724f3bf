"""A whole audit: what Prefect, the journal and DuckDB add to the bare work, and memory against the size of the plan."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.bench.table import Figure

CASES = 1_000
MEMORY = """
import resource, sys
from audit import identity
from audit.journal import Journal
from audit.model_refs import resolve_model
from audit.plan import read_plan
from audit.planning import CorpusItem, build_plan
from audit.records import Instrument
from audit.spec import load_spec

spec, root, count = load_spec(sys.argv[1]), sys.argv[2], int(sys.argv[3])
instrument = Instrument(1, "classifier", "classifier", "1", "torch", "0" * 64, "none", ("ring",), 0.0, 0.5, "{}")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = build_plan(spec, run_id="memory", created_at="2026-01-01T00:00:00+00:00", backbone=resolve_model("testbed"),
                  items={}, instruments=[instrument], rules=[], corpus={})
journal = Journal(root)
plan.write(journal)
plan = read_plan(journal, "memory")
assert plan.cases.num_rows >= count
for kind in ("erase", "invert", "generate", "detect"):
    for unit in plan.units_of(kind):
        pass
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def spec(cases: int) -> dict[str, object]:
    """An audit of `cases` text prompts, half on the backbone and half on the erased model."""
    return {
        "name": "bench",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring", "neighbours": ["circle"]}],
        "defences": [{"name": "uce", "eraser": {"method": "uce", "preset": "testbed"}}],
        "scenarios": [{"name": "text", "cases": cases // 2, "sampler": {"steps": 25, "guidance": 1.0}}],
        "controls": {"cases": 4, "random_latent": False},
        "detectors": [{"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.1}]},
        "unit_size": 64,
    }


def overhead(folder: Path) -> list[Figure]:
    """Wall time of the flow beyond the seconds its units compute, at `CASES` cases, without start-up of Python."""
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(CASES)))
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    from flows import environment

    environment.apply()
    environment.quiet()
    from flows.audit import audit
    from tasks.context import Settings

    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        finished = audit(str(path), str(folder / "root"), None, Settings(batch_size=64))
        wall = time.perf_counter() - started
    inside = sum(stage.seconds for stage in finished.stages)
    how = f"{CASES} text cases at 25 steps; includes server start, planning, checks and report"
    return [Figure("Prefect + journal + DuckDB + report over the bare work", f"{wall / inside - 1:.1%}", "<= 5 %", how)]


def memory(folder: Path) -> list[Figure]:
    """Peak memory of planning, storing, reading and walking a plan."""
    grown = {}
    for cases in (1_000, 20_000):
        path = folder / f"spec-{cases}.yaml"
        path.write_text(json.dumps(spec(cases)))
        arguments = [sys.executable, "-c", MEMORY, str(path), str(folder / f"memory-{cases}"), str(cases)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        grown[cases] = [int(word) / 1024 for word in done.stdout.split()]
    how = "resident set of a process that plans, stores, reads back and walks the plan"
    return [
        Figure(f"peak memory at {cases:,} planned cases", f"{peak:.0f} MiB (+{peak - before:.0f})", "", how)
        for cases, (before, peak) in grown.items()
    ]


def figures() -> list[Figure]:
    """Overhead and memory of whole runs."""
    with tempfile.TemporaryDirectory() as name:
        return memory(Path(name)) + overhead(Path(name))
