"""Print what a whole audit costs beyond a bare in-memory loop over the same cases in the same process.

python -m tests.bench.bench_overhead [--cases 1000]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from audit import detectors
from audit.detectors.base import Detector
from audit.guards.base import Conditioning
from audit.journal import Journal
from audit.model_refs import resolve_model
from audit.models import Models
from audit.plan import Plan, read_plan
from audit.sampling import initial_noise, sample
from tests.bench.table import Figure, conclude

CASES, BATCH, LIMIT = 1_000, 64, 0.05


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    conclude(figures(parser.parse_args().cases))


def figures(cases: int = CASES) -> list[Figure]:
    """The overhead and where it goes. The limit is that of 1,000 cases: what a run costs once weighs more in fewer."""
    with tempfile.TemporaryDirectory() as name:
        first, wall, finished, journal = _flow(Path(name), cases)
        plan = read_plan(journal, finished.result.run_id)
        bare, pictures = bare_loop(plan, journal)
    inside = {stage.kind: stage.seconds for stage in finished.stages}
    looped = inside["generate"] + inside["detect"] - bare
    outside = wall - sum(inside.values())
    how = (
        f"{pictures} pictures at 25 steps in batches of {BATCH}; the loop samples, decodes and measures them in memory"
    )
    return [
        Figure("whole audit over a bare loop, wall time", wall / bare - 1, "{:.1%}", LIMIT if cases >= CASES else None, how),
        Figure("- the bare loop", bare, "{:.1f} s", None, "the same cases, models and process"),
        Figure("- of that overhead, erasing", inside["erase"] / bare, "{:.1%}", None, "UCE, its proof, its artefact"),
        Figure("- loading, PNG, journal reads", looped / bare, "{:.1%}", None, "inside generate and detect units"),
        Figure(
            "- everything else", outside / bare, "{:.1%}", None,
            "Prefect with its server's start, planning, journal writes, DuckDB, checks, report",
        ),
        Figure("once per machine: Prefect's database", first, "{:.1f} s", None, "first start of its server; not in the above"),
    ]  # fmt: skip


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


def _flow(folder: Path, cases: int) -> tuple[float, float, Any, Journal]:
    """Seconds that making Prefect's database took, seconds of the whole flow, what it returned, and its journal.

    The flow's seconds are those of the command without the start of Python and the import of torch: they begin before
    the temporary server is started.
    """
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(cases)))
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    from flows import environment

    environment.apply()
    environment.quiet()
    from flows.audit import audit
    from flows.commands.run import flow_of
    from flows.temporary_server import prefect_api
    from tasks.context import Settings

    started = time.perf_counter()
    with prefect_api(lambda: None):
        first = time.perf_counter() - started
    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        with flow_of("bench", None, verbose=False):
            finished = audit(str(path), str(folder / "root"), None, Settings(device="cpu", batch_size=BATCH))
        wall = time.perf_counter() - started
    return first, wall, finished, Journal(str(folder / "root"))


def bare_loop(plan: Plan, journal: Journal) -> tuple[float, int]:
    """Seconds of sampling, decoding and measuring the plan's prompts in memory, and how many pictures that made.

    Models are loaded before, prompts are encoded within: nothing is stored, checked or read. Batches are those of the
    run's units.
    """
    models = Models(resolve_model(plan.spec.backbone), journal, torch.device("cpu"), plan)
    detector = detectors.build(plan.spec.detectors[0], plan.spec.subjects(), "cpu")
    units = [unit for unit in plan.units_of("generate") if unit.identity["source"] == "prompt"]
    batches = [(unit.identity, plan.cases_of(unit.key)) for unit in units]
    for described in {unit.identity["model"]: unit.identity for unit in units}.values():
        sampler = {**described["sampler"], "steps": 1}
        _measured(models, detector, {**described, "sampler": sampler}, batches[0][1][:1])
    started = time.perf_counter()
    pictures = sum(_measured(models, detector, described, cases) for described, cases in batches)
    return time.perf_counter() - started, pictures


def _measured(
    models: Models, detector: Detector, described: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]
) -> int:
    """The number of pictures of one batch that were sampled, decoded and measured."""
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
