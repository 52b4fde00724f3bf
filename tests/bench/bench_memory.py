"""Print the peak memory of planning and concluding a run, against the number of its cases.

python -m tests.bench.bench_memory
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from audit.corpus.images import encode_png
from audit.storage.journal import Journal
from tests.bench.bench_overhead import spec
from tests.bench.table import Figure, conclude
from tests.synthetic import Run, cell, control, detect_row, generate_row

SIZES = (1_000, 20_000)
GROWTH = 1.5  # twenty times the cases may not need much more memory than the process itself
PLAN = """
import json, sys
from audit import run
from audit.plan.document import read_plan
from audit.spec.document import load_spec

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

spec, journal, count = load_spec(sys.argv[1]), run.open_journal(sys.argv[2]), int(sys.argv[3])
run.plan(spec, journal, "first", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "first"))
plan = read_plan(journal, "first")
assert plan.cases.num_rows >= count
units = sum(1 for kind in ("erase", "invert", "generate", "detect") for _ in plan.units_of(kind))
print(json.dumps({"walk": peak()}))
"""
CONCLUDE = """
import dataclasses, json, sys
from pathlib import Path
from audit import run
from audit.index import queries
from audit.spec.policy import Policy
from audit.verdict import gate

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

journal, folder = run.open_journal(sys.argv[1]), Path(sys.argv[2])
published = run.consolidate(journal, "run-1", folder / "index.duckdb")
peaks = {"consolidate": peak()}
result = queries.read_result(published, "run-1")
peaks["read"] = peak()
policy = Policy(version="1", limits=({"crr_max": 0.1},), judges=("judge",))
result = dataclasses.replace(result, verdict=gate.decide(policy, result.crr, []))
run.report(journal, result, folder / "report")
peaks["report"] = peak()
print(json.dumps(peaks))
"""


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


def planning(folder: Path) -> list[Figure]:
    """Peak memory of listing a corpus, planning, storing, reading back and walking the plan."""
    peaks = {}
    for cases in SIZES:
        path, corpus = folder / f"spec-{cases}.yaml", folder / f"corpus-{cases}"
        write_corpus(corpus, cases)
        path.write_text(yaml.safe_dump(latent_spec(cases, corpus)))
        peaks[cases] = _peaks(PLAN, str(path), str(folder / f"memory-{cases}"), str(cases))["walk"]
    what = "a process that lists a corpus of as many images, plans, stores, reads back and walks the plan"
    return _compared("planning", what, peaks)


def concluding(folder: Path) -> list[Figure]:
    """Peak memory of folding a synthetic journal in, of reading the result after that, and of writing the reports."""
    found = {}
    for cases in SIZES:
        root = folder / f"journal-{cases}"
        write_journal(Journal(str(root)), cases)
        found[cases] = _peaks(CONCLUDE, str(root), str(folder / f"index-{cases}"))
    steps = {"consolidate": "consolidation", "read": "reading the result", "report": "writing the reports"}
    return [
        figure
        for step, name in steps.items()
        for figure in _compared(name, "the same process, so far", {n: peaks[step] for n, peaks in found.items()})
    ]


def write_journal(journal: Journal, cases: int) -> None:
    """A finished run of `cases` cases by text, on the backbone and on an erased model, with pictures of 3 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    picture = {"bytes": encode_png(noise), "path": None}
    cells = [cell(0, cases // 2), control(1, cases // 2, "backbone", scenario="text")]
    run = Run(cells=cells, unit_size=64)
    run.write_plan(journal)
    journal.put_run(run.run_id, "spec.yaml", b"{}")
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for case in run.cases:
        by_unit.setdefault(case["unit_key"], []).append(case)
    for key, its in by_unit.items():
        made = [{**generate_row(case), "image": picture} for case in its]
        scored = [detect_row(case["image_id"], 11, hit=case["case_no"] % 2 == 1) for case in its]
        journal.write("generate", key, run.table("generate", made), {})
        journal.write("detect", run.detect_key(key, 11), run.table("detect", scored), {})


def _peaks(script: str, *arguments: str) -> dict[str, float]:
    """Step -> peak resident set in MiB at its end, as a process of its own prints them.

    They read VmHWM (Linux): `ru_maxrss` begins with the size of the process that started them.
    """
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {step: peak / 1024 for step, peak in found.items()}


def _compared(name: str, what: str, peaks: dict[int, float]) -> list[Figure]:
    few, many = (peaks[cases] for cases in SIZES)
    return [
        *(Figure(f"peak memory of {name}, {n:,} cases", peak, "{:.0f} MiB", None, what) for n, peak in peaks.items()),
        Figure("- the second over the first", many / few, "{:.2f}x", GROWTH, f"{SIZES[1] // SIZES[0]} times the cases"),
    ]


def figures() -> list[Figure]:
    """Memory of planning and of concluding a run."""
    with tempfile.TemporaryDirectory() as name:
        return planning(Path(name)) + concluding(Path(name))


if __name__ == "__main__":
    conclude(figures())
