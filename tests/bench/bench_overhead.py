"""Print what a whole audit costs beyond a bare in-memory loop over the same cases, each as a process of its own.

python -m tests.bench.bench_overhead [--cases 1000]

Both sides start Python, import what they need and load the models. The audit adds Prefect with a temporary server,
planning, erasing, the journal, PNG files, DuckDB, checks and the report.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.bench.table import Figure, conclude

if TYPE_CHECKING:
    from audit.detectors.base import Detector
    from audit.models import Models

CASES, BATCH, LIMIT = 1_000, 64, 0.05


def main() -> None:
    """Measure and print; or be one of the two sides, in FOLDER."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, folder = arguments.side
        print(json.dumps({"server": server, "audit": audit, "bare": bare}[name](Path(folder))))
    else:
        conclude(figures(arguments.cases))


def figures(cases: int = CASES) -> list[Figure]:
    """The overhead and where it goes. The limit is that of 1,000 cases: what a run costs once weighs more in fewer."""
    with tempfile.TemporaryDirectory() as name:
        home, again = Path(name) / "prefect", Path(name) / "again"
        folder = Path(name) / "first"
        for one in (folder, again):
            one.mkdir()
            (one / "spec.yaml").write_text(yaml.safe_dump(spec(cases)))
        first, _ = _side("server", folder, home)
        # Before and after the bare loop: a machine whose speed drifts weighs on both sides alike.
        audits = [_side("audit", folder, home)]
        loop, plain = _side("bare", folder, home)
        audits.append(_side("audit", again, home))
    wall = statistics.mean(seconds for _, seconds in audits)
    inside = {kind: statistics.mean(stages[kind] for stages, _ in audits) for kind in audits[0][0]}
    apart = abs(audits[0][1] - audits[1][1]) / wall
    looped = inside["generate"] + inside["detect"] - loop["seconds"]
    start = plain - loop["seconds"]
    outside = wall - start - sum(inside.values())
    how = f"{loop['pictures']} pictures at 25 steps in batches of {BATCH}; the loop keeps them in memory"
    return [
        Figure("whole audit over a bare loop, wall time of the processes", wall / plain - 1, "{:.1%}",
               LIMIT if cases >= CASES else None, f"{how}; the mean of two audits, {apart:.1%} apart"),
        Figure("- the bare loop", plain, "{:.1f} s", None, f"{start:.1f} s of it until the models are loaded"),
        Figure("- of that overhead, erasing", inside["erase"] / plain, "{:.1%}", None, "UCE, its proof, its artefact"),
        Figure("- loading, PNG, journal reads", looped / plain, "{:.1%}", None, "inside generate and detect units"),
        Figure("- everything else", outside / plain, "{:.1%}", None,
               "Prefect with its server, planning, journal writes, DuckDB, checks, report"),
        Figure("once per machine: Prefect's database", first["seconds"], "{:.1f} s", None,
               "first start of its server; not in the above"),
    ]  # fmt: skip


def _side(name: str, folder: Path, home: Path) -> tuple[Mapping[str, Any], float]:
    """What one side printed, and the seconds of its whole process; Prefect keeps its database in `home`."""
    command = [sys.executable, "-m", "tests.bench.bench_overhead", "--side", name, str(folder)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "PREFECT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    printed: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed, wall


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


def server(folder: Path) -> dict[str, float]:
    """The seconds until a temporary server has made its database and ended."""
    from flows import environment

    environment.apply()
    environment.quiet()
    from flows.temporary_server import prefect_api

    started = time.perf_counter()
    with prefect_api(lambda: None):
        return {"seconds": time.perf_counter() - started}


def audit(folder: Path) -> dict[str, float]:
    """The audit as the command runs it; seconds inside units by stage."""
    from flows import environment

    environment.apply()
    from flows.commands.run import flow_of

    with contextlib.redirect_stdout(io.StringIO()), flow_of("bench", None, verbose=False):
        from flows.audit import audit as flow
        from tasks.context import Settings

        settings = Settings(device="cpu", batch_size=BATCH)
        finished = flow(str(folder / "spec.yaml"), str(folder / "root"), "bench", settings)
    return {stage.kind: stage.seconds for stage in finished.stages}


def bare(folder: Path) -> dict[str, float]:
    """Sampling, decoding and measuring the plan's prompts in memory: seconds of it, and how many pictures it made.

    Models are loaded before, prompts are encoded within: nothing is stored, checked or read. Batches are those of the
    run's units, and the erased model is the artefact that the audit made.
    """
    import torch

    from audit import detectors
    from audit.journal import Journal
    from audit.model_refs import resolve_model
    from audit.models import Models
    from audit.plan import read_plan

    journal = Journal(str(folder / "root"))
    plan = read_plan(journal, "bench")
    models = Models(resolve_model(plan.spec.backbone), journal, torch.device("cpu"), plan)
    detector = detectors.build(plan.spec.detectors[0], plan.spec.subjects(), "cpu")
    units = [unit for unit in plan.units_of("generate") if unit.identity["source"] == "prompt"]
    batches = [(unit.identity, plan.cases_of(unit.key)) for unit in units]
    for described in {unit.identity["model"]: unit.identity for unit in units}.values():
        sampler = {**described["sampler"], "steps": 1}
        _measured(models, detector, {**described, "sampler": sampler}, batches[0][1][:1])
    started = time.perf_counter()
    pictures = sum(_measured(models, detector, described, cases) for described, cases in batches)
    return {"seconds": time.perf_counter() - started, "pictures": pictures}


def _measured(
    models: Models, detector: Detector, described: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]
) -> int:
    """The number of pictures of one batch that were sampled, decoded and measured."""
    import torch

    from audit.guards.base import Conditioning
    from audit.sampling import initial_noise, sample

    texts, erased = tuple(case["prompt"] for case in cases), described["model"]
    states, null = models.states(texts, erased), models.states([""] * len(texts), erased)
    conditioning = Conditioning(states, null, described["sampler"]["guidance"], texts)
    latents = initial_noise([case["seed"] for case in cases], models.pipeline.latent_shape)
    schedule = models.pipeline.schedule(described["sampler"]["steps"])
    result = sample(models.noise_model(erased, "float32", texts), schedule, latents, conditioning)
    images = models.pipeline.decode_latents(result.latents)
    pixels = ((images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return sum(measurement.scores is not None for measurement in detector.measure(list(pixels)))


if __name__ == "__main__":
    main()
