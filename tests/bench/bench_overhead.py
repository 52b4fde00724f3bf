"""Print what a whole audit costs beyond a bare in-memory loop over the same cases, each as a process of its own.

python -m tests.bench.bench_overhead [--cases 1000] [--rounds 2]

Both sides start Python, import what they need and load the models. The audit adds Prefect with a temporary server,
planning, erasing, the journal, PNG files, DuckDB, checks and the report.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from audit.plan.document import KINDS
from flows import ending
from tests.bench.table import Figure, conclude
from tests.flows.audits import WAIVED

if TYPE_CHECKING:
    from audit.compute.models import Models
    from audit.instruments.detectors.base import Detector
    from audit.plan.identities import GenerateIdentity, PictureSampler
    from audit.records import Case
    from flows.audit import Finished

CASES, BATCH, LIMIT, ROUNDS = 1_000, 64, 0.04, 2


def main() -> None:
    """Measure and print; or be one of the two sides, in FOLDER."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, folder = arguments.side
        side = functools.partial(_print, {"server": server, "audit": audit, "bare": bare}[name], Path(folder))
        if name == "bare":
            side()
        else:  # as the command ends
            ending.run(side)
    else:
        conclude(figures(arguments.cases, arguments.rounds))


def _print(side: Callable[[Path], Mapping[str, float]], folder: Path) -> int:
    print(json.dumps(side(folder)), flush=True)
    return 0


def figures(cases: int = CASES, rounds: int = ROUNDS) -> list[Figure]:
    """The overhead and where it goes. The limit is that of 1,000 cases: what a run costs once weighs more in fewer.

    The seconds inside the networks are left out on both sides: they do the same work, and a machine whose speed drifts
    by a tenth between two processes would hide what is looked for.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec(cases)))
        first, _ = _side("server", folder)
        measured = [_round(folder) for _ in range(rounds)]
    how = f"{measured[0].pictures} pictures at 25 steps in batches of {BATCH}; the loop keeps them in memory; {rounds} rounds"
    limit = LIMIT if cases >= CASES else None
    last = measured[-1]
    return [
        _share("whole audit over a bare loop, wall time outside the networks", [one.whole for one in measured], how, limit),
        Figure("- the bare loop", last.plain, "{:.1f} s", None, f"{last.start:.1f} s of it until the models are loaded"),
        Figure("- the audit", last.wall, "{:.1f} s", None, f"its networks took {last.drift:+.1%} for the same pictures"),
        _share("- of that overhead, erasing", [one.erasing for one in measured], "UCE, its proof, its artefact"),
        _share("- loading, PNG, journal reads", [one.looped for one in measured], "inside generate and detect units"),
        _share("- everything else", [one.outside for one in measured],
               "Prefect with its server, planning, journal writes, DuckDB, checks, report"),
        Figure("once per machine: Prefect's database", first["seconds"], "{:.1f} s", None,
               "first start of its server; not in the above"),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measured:
    """One audit beside one bare loop: seconds, and shares of the loop's."""

    pictures: int
    plain: float  # seconds of the bare loop
    start: float  # of them until the models are loaded
    wall: float  # seconds of the audit
    drift: float  # how much longer its networks took for the same pictures
    whole: float
    erasing: float
    looped: float
    outside: float


def _round(folder: Path) -> Measured:
    """Measure both sides once; the audit begins on a storage root of its own."""
    shutil.rmtree(folder / "root", ignore_errors=True)
    inside, wall = _side("audit", folder)
    loop, plain = _side("bare", folder)
    around, bare_around = wall - inside["networks"], plain - loop["networks"]
    looped = (inside["generate"] + inside["detect"] - inside["networks"]) - (loop["seconds"] - loop["networks"])
    start = plain - loop["seconds"]
    outside = wall - start - sum(inside[kind] for kind in KINDS if kind in inside)
    return Measured(
        pictures=int(loop["pictures"]),
        plain=plain,
        start=start,
        wall=wall,
        drift=inside["networks"] / loop["networks"] - 1,
        whole=(around - bare_around) / plain,
        erasing=inside["erase"] / plain,
        looped=looped / plain,
        outside=outside / plain,
    )


def _share(name: str, shares: Sequence[float], how: str, limit: float | None = None) -> Figure:
    """Return the median of a share, with the smallest and the largest of the rounds."""
    detail = f"{min(shares):.1%} to {max(shares):.1%}; {how}"
    return Figure(name, statistics.median(shares), "{:.1%}", limit, detail)


def _side(name: str, folder: Path) -> tuple[Mapping[str, Any], float]:
    """What one side printed, and the seconds of its whole process."""
    command = [sys.executable, "-m", "tests.bench.bench_overhead", "--side", name, str(folder)]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "PREFECT_HOME": str(folder / "prefect")},
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
        "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.1}], **WAIVED},
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
    """The audit as the command runs it; seconds inside units by stage, and of them inside the networks."""
    from flows import environment

    environment.apply()
    from flows.commands.run import flow_of

    with contextlib.redirect_stdout(io.StringIO()), flow_of("bench", None, verbose=False):
        from flows.audit import audit as flow
        from tasks.context import Settings
        from tests.bench.forwards import counted  # here, where the networks' classes are loaded already

        settings = Settings(device="cpu", batch_size=BATCH)
        with counted() as forwards:
            finished = cast("Finished", flow(str(folder / "spec.yaml"), str(folder / "root"), "bench", settings))
    return {**{stage.kind: stage.seconds for stage in finished.stages}, "networks": forwards.seconds}


def bare(folder: Path) -> dict[str, float]:
    """Sampling, decoding and measuring the plan's prompts in memory: seconds of it, and how many pictures it made.

    Models are loaded before, prompts are encoded within: nothing is stored, checked or read. Batches are those of the
    run's units, and the erased model is the artefact that the audit made.
    """
    import torch

    from audit.compute.models import Models
    from audit.instruments import detectors
    from audit.plan.document import read_plan
    from audit.storage.journal import Journal
    from audit.weights.references import resolve_model
    from tests.bench.forwards import counted
    from tests.bench.plain_audit import generated

    journal = Journal(str(folder / "root"))
    plan = read_plan(journal, "bench")
    models = Models(resolve_model(plan.spec.backbone), journal, torch.device("cpu"), plan)
    detector = detectors.build(plan.spec.detectors[0], plan.spec.sought(), "cpu")
    prompted = {key: identity for key, identity in generated(plan).items() if identity.source == "prompt"}
    batches = [(identity, plan.cases_of(key)) for key, identity in prompted.items()]
    for described in {identity.model: identity for identity in prompted.values()}.values():
        short = dataclasses.replace(described, sampler=_sampler(described).model_copy(update={"steps": 1}))
        _measured(models, detector, short, batches[0][1][:1])
    with counted() as forwards:
        started = time.perf_counter()
        pictures = sum(_measured(models, detector, described, cases) for described, cases in batches)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "pictures": pictures, "networks": forwards.seconds}


def _sampler(described: GenerateIdentity) -> PictureSampler:
    assert described.sampler is not None, "a prompt is sampled"
    return described.sampler


def _measured(models: Models, detector: Detector, described: GenerateIdentity, cases: Sequence[Case]) -> int:
    """The number of pictures of one batch that were sampled, decoded and measured."""
    import torch

    from audit.diffusion.guard import Conditioning
    from audit.diffusion.sampling import initial_noise, sample

    texts, erased, sampler = tuple(case.prompt or "" for case in cases), described.model, _sampler(described)
    states, null = models.states(texts, erased), models.states([""] * len(texts), erased)
    conditioning = Conditioning(states, null, sampler.guidance, texts)
    latents = initial_noise([case.seed for case in cases], models.pipeline.latent_shape)
    schedule = models.pipeline.schedule(sampler.steps)
    result = sample(models.noise_model(erased, "float32", texts), schedule, latents, conditioning)
    images = models.pipeline.decode_latents(result.latents)
    pixels = ((images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return sum(measurement.scores is not None for measurement in detector.measure(list(pixels)))


if __name__ == "__main__":
    main()
