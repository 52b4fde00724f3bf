"""The two sides of `bench_audit`: a whole audit of ours, and the per-image script on a share of its cases."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

from audit import locations, run
from audit.machine.arithmetic import emulates_bfloat16
from audit.machine.compilers import Mode, has_compiler
from audit.plan.document import KINDS, Plan
from audit.spec.document import parse_spec
from audit.storage.journal import Journal
from audit.testbed.erased import ERASED
from audit.testbed.scenes import write_corpus
from audit.verdict.results import RunResult
from tests.bench.forwards import Forwards, counted
from tests.bench.plain_audit import PlainAudit
from tests.flows.audits import WAIVED


@dataclasses.dataclass(frozen=True)
class Means:
    """In what precision pictures are sampled where nothing is inverted, and by what networks are compiled."""

    dtype: str = "float32"
    compile_with: Mode | None = None

    @classmethod
    def of_this_machine(cls) -> Means:
        """Return all that makes an audit faster here: bfloat16 where the processor computes in it, and a compiler."""
        return cls("float32" if emulates_bfloat16() else "bfloat16", "inductor" if has_compiler() else None)

    def __str__(self) -> str:
        return f"text in {self.dtype}, {'compiled' if self.compile_with else 'not compiled'}"


@dataclasses.dataclass(frozen=True)
class Ours:
    """One finished audit, how long it took, and what its networks did."""

    plan: Plan
    journal: Journal
    result: RunResult
    seconds: float
    cpu: float  # CPU seconds of all threads
    units: float  # seconds inside units, of `seconds`
    inversion_rows: int  # UNet evaluations of invert units, round trips included
    forwards: Forwards
    scores: Mapping[tuple[int, int], tuple[float | None, ...]]


def document(corpus: Path, cases: int, steps: int, dtype: str = "float32") -> dict[str, Any]:
    """The audit: shipped erased models as checkpoints, so that no side is measured while it trains."""
    defences = [
        {"name": method, "eraser": {"method": method, "checkpoint": str(ERASED / f"{method}-ring")}}
        for method in ("esd-x", "uce", "receler")
    ]
    latent = {"cases": cases, "sampler": {"steps": steps, "guidance": 1.0}}
    return {
        "name": "bench-audit",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring", "neighbours": ["square", "moon"]}],
        "corpus": [{"url": str(corpus), "concept": "ring"}],
        "defences": defences,
        "scenarios": [
            {"name": "text", "cases": cases, "sampler": {"steps": steps, "guidance": 3.0, "dtype": dtype}},
            {"name": "latent-whitebox", **latent},
            {"name": "latent-blackbox", **latent},
        ],
        "controls": {"cases": min(8, cases)},
        "detectors": [
            {
                "name": "clip-judge",
                "kind": "clip-zero-shot",
                "model": "testbed/judge",
                "background": ["a photo of an empty white background"],
            },
            {"name": "classifier", "kind": "classifier", "model": "testbed/classifier"},
        ],
        "gate": {"version": "1", "judges": ["clip-judge", "classifier"], "limits": [{"crr_max": 0.3}], **WAIVED},
        "unit_size": 64,
    }


def ours(folder: Path, cases: int, steps: int, means: Means = Means()) -> Ours:
    """The audit as `erasure-audit run` does it, step by step in this process. What runs compiled is not counted."""
    corpus = folder / "corpus"
    write_corpus(str(corpus), "ring", cases, "audit")
    root = str(folder / "root")
    started, used, inside, inversions = time.perf_counter(), time.process_time(), 0.0, 0
    with counted() if not means.compile_with else contextlib.nullcontext(Forwards()) as forwards:
        spec = parse_spec(document(corpus, cases, steps, means.dtype), "bench")
        journal = run.open_journal(root)
        plan = run.plan(spec, journal, "bench", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "bench"))
        worker = run.worker(plan, journal, "cpu", compile_with=means.compile_with)
        for kind in KINDS:
            for unit in plan.pending(kind, journal):
                report = worker.run(unit)
                inside += report.seconds
                inversions += report.unet_calls if kind == "invert" else 0
        published = run.consolidate(journal, "bench", locations.database_path(root))
        result = run.conclude(journal, "bench", published)
        run.report(journal, result, folder / "reports")
        seconds, used = time.perf_counter() - started, time.process_time() - used
    return Ours(plan, journal, result, seconds, used, inside, inversions, forwards, _scores(published, plan))


@dataclasses.dataclass(frozen=True)
class Script:
    """What the script did on its share of the cases: seconds, CPU seconds, and what its networks did."""

    seconds: float
    cpu: float
    forwards: Forwards
    scores: Mapping[tuple[int, int], tuple[float | None, ...]]


def script(plain: PlainAudit) -> Script:
    """Run the script on the cases of its plan, its models loaded before."""
    with counted() as forwards:
        started, used = time.perf_counter(), time.process_time()
        scores = plain.run()
        return Script(time.perf_counter() - started, time.process_time() - used, forwards, scores)


def _scores(published: Path, plan: Plan) -> dict[tuple[int, int], tuple[float | None, ...]]:
    names = [detector.name for detector in plan.spec.detectors]
    found: dict[tuple[int, int], dict[str, float | None]] = {}
    with contextlib.closing(duckdb.connect(str(published), read_only=True)) as con:
        for cell, case, detector, score in con.execute(
            "select cell_id, case_no, detector, score from outcomes"
        ).fetchall():
            found.setdefault((cell, case), {})[detector] = score
    return {key: tuple(row.get(name) for name in names) for key, row in found.items()}
