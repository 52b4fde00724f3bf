"""A whole audit: what Prefect, the journal and DuckDB add to the bare work, and memory against the size of the plan."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.bench.table import Figure

CASES = 1_000
MEMORY = """
import resource, sys
from audit import run
from audit.plan import read_plan
from audit.spec import load_spec

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

spec, journal, count = load_spec(sys.argv[1]), run.open_journal(sys.argv[2]), int(sys.argv[3])
run.resolve(spec, journal, "first", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "first"))
plan = read_plan(journal, "first")
assert plan.cases.num_rows >= count
units = sum(1 for kind in ("erase", "invert", "generate", "detect") for _ in plan.units_of(kind))
print(units, peak())
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


def latent_spec(cases: int, corpus: Path) -> dict[str, object]:
    """An audit of `cases` inverted latents, half on the backbone and half on the erased model, of as many images."""
    scenario = {"name": "latent-whitebox", "cases": cases // 2, "sampler": {"steps": 25, "guidance": 1.0}}
    return {
        **spec(cases),
        "corpus": [{"url": str(corpus), "concept": "ring"}],
        "scenarios": [scenario],
        "controls": {"cases": 4},
    }


def write_corpus(folder: Path, images: int) -> None:
    """`images` different PNG files of 64 x 64 pixels."""
    folder.mkdir()
    for number in range(images):
        pixels = np.full((64, 64, 3), 128, np.uint8)
        pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
        Image.fromarray(pixels).save(folder / f"{number:06}.png", compress_level=1)


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
    """Peak memory of listing a corpus, planning, storing, reading back and walking the plan."""
    peaks = {}
    for cases in (1_000, 20_000):
        path, corpus = folder / f"spec-{cases}.yaml", folder / f"corpus-{cases}"
        write_corpus(corpus, cases)
        path.write_text(yaml.safe_dump(latent_spec(cases, corpus)))
        arguments = [sys.executable, "-c", MEMORY, str(path), str(folder / f"memory-{cases}"), str(cases)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[cases] = int(done.stdout.split()[-1]) / 1024
    few, many = peaks.values()
    how = (
        "resident set of a process that lists a corpus of as many images, plans, stores, reads back and walks the plan"
    )
    return [
        Figure(f"peak memory at {cases:,} planned cases", f"{peak:.0f} MiB", "", how) for cases, peak in peaks.items()
    ] + [Figure("the second over the first", f"{many / few:.2f}x", "~ 1x", "20 times the cases and images")]


def figures() -> list[Figure]:
    """Overhead and memory of whole runs."""
    with tempfile.TemporaryDirectory() as name:
        return memory(Path(name)) + overhead(Path(name))
