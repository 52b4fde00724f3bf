"""Print how near a Ray cluster of many GPUs comes to the ideal: units that sleep, everything else is real.

python -m tests.bench.bench_ray [--gpus 64] [--seconds 20] [--rounds 3]

A Prefect server, a Ray head and one node that says it has the GPUs, and an S3 server run as processes of this machine, so
that what limits a cluster here are this machine's cores: the figures say how many CPU seconds a unit costs in each of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bench.sleeping import SECONDS
from tests.bench.table import Figure, conclude
from tests.flows.clusters import ray_cluster
from tests.flows.servers import prefect_server, server_log
from tests.servers import rclone_server

REPOSITORY = Path(__file__).resolve().parents[2]
GPUS, UNIT_SECONDS, ROUNDS = 64, 20.0, 3
LEAST = 0.9
_TICKS = os.sysconf("SC_CLK_TCK")
# The parts of the system, by what stands in the command lines of their processes.
PARTS = {
    "Prefect server": ("prefect", "server", "start"),
    "Ray's own processes": ("raylet", "gcs_server", "ray/util/client", "ray/_private", "ray.scripts"),
    "the units' processes": ("ray::",),
    "S3 server": ("rclone",),
    "the run": ("tests.bench.bench_ray",),
}


@dataclasses.dataclass(frozen=True)
class Spread:
    """When each unit of a run ended, in seconds after the first one began, earliest first."""

    ends: list[float]

    def share(self, gpus: int, seconds: float) -> float:
        """Return the share of the ideal speed-up that the whole run reached, the start of its processes included."""
        return waves(len(self.ends), gpus) * seconds / self.ends[-1]

    def busy(self, gpus: int, seconds: float) -> float:
        """Return the share of their time that the GPUs compute, from when each has begun until the last unit begins."""
        begun = sorted(end - seconds for end in self.ends)
        first, last = begun[gpus - 1], begun[-1]
        computed = sum(max(0.0, min(start + seconds, last) - max(start, first)) for start in begun)
        return computed / (gpus * (last - first))


def waves(units: int, gpus: int) -> int:
    """Return the number of units that the busiest GPU computes at best: no schedule is shorter."""
    return -(-units // gpus)


def main() -> None:
    """Measure and print; or be the run, in FOLDER."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=GPUS)
    parser.add_argument("--seconds", type=float, default=UNIT_SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--drive", nargs=3, metavar=("SPEC", "ROOT", "ADDRESS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        spec, root, address = arguments.drive
        print(json.dumps(dataclasses.asdict(drive(Path(spec), root, address))))
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the servers end with it
        conclude(figures(arguments.gpus, arguments.seconds, arguments.rounds))


def drive(spec: Path, root: str, address: str) -> Spread:
    """Plan a run of `spec` and spread it over the cluster; its units sleep."""
    from prefect import Task, flow

    from audit.plan.document import KINDS, read_plan
    from audit.storage.journal import Journal
    from tasks.context import Run, Settings
    from tasks.spread import spread
    from tests.bench.sleeping import sleep
    from tests.flows.audits import plan_run

    run_id = plan_run(spec, root)
    settings = Settings(runner="ray", address=address, cpus_per_unit=0.01)
    run = Run(run_id, root, settings)

    @flow(name="simulation", persist_result=False)
    def simulation() -> int:
        sleeping: dict[str, Task[..., Any]] = dict.fromkeys(KINDS, sleep)
        reports = spread(run, sleeping, frozenset())
        return sum(report.computed for report in reports)

    computed = simulation()
    journal, plan = Journal(root), read_plan(Journal(root), run_id)
    moments = sorted(moment for kind in KINDS for moment in _moments(journal, kind))
    assert computed == plan.units.num_rows, f"{computed} of {plan.units.num_rows} units"
    began = moments[0] - float(os.environ[SECONDS])
    return Spread([moment - began for moment in moments])


def _moments(journal: object, kind: str) -> Iterator[float]:
    from audit.storage.journal import Journal

    assert isinstance(journal, Journal)
    yield from (moment.timestamp() for moment in journal.listing(kind).written.values())


def figures(gpus: int = GPUS, seconds: float = UNIT_SECONDS, rounds: int = ROUNDS) -> list[Figure]:
    """The speed-up of `gpus` sleeping GPUs, and the CPU seconds of each part for a unit."""
    from tests.flows.audits import tiny_spec
    from tests.tiny import write_pipeline

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "buckets" / "audits").mkdir(parents=True)
        # A picture and a score for each case of the backbone and of the defence.
        text = {"name": "text", "cases": gpus * rounds // 4, "sampler": {"steps": 2, "guidance": 3.0}}
        spec = tiny_spec(
            folder,
            write_pipeline(folder / "pipeline"),
            scenarios=[text],
            defences=[{"name": "irece", "guards": [{"name": "irece"}]}],
            controls={"cases": 1},
            unit_size=1,
        )
        with (
            rclone_server(folder / "buckets", "100ms") as s3,
            prefect_server(folder / "home", REPOSITORY, PREFECT_SERVER_LOGGING_LEVEL="INFO") as server,
            ray_cluster({**server, **s3, SECONDS: str(seconds)}) as cluster,
            cluster.node("gpus", cpus=gpus, gpus=gpus),
        ):
            before, requests = _cpu_seconds(), _requests(folder / "home")
            began = time.monotonic()
            command = [
                sys.executable,
                "-m",
                "tests.bench.bench_ray",
                "--drive",
                str(spec),
                "s3://audits/run",
                cluster.address,
            ]
            with (folder / "drive.log").open("w+") as log:
                done = subprocess.run(
                    command, env=dict(cluster.environment), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True,
                    check=False,
                )  # fmt: skip
                log.seek(0)
                assert done.returncode == 0, log.read()[-3000:]
            wall = time.monotonic() - began
            after, requests = _cpu_seconds(), _requests(folder / "home") - requests
        result = Spread(**json.loads(done.stdout.strip().splitlines()[-1]))
    units = len(result.ends)
    costs = {part: (after[part] - before[part]) / units for part in PARTS if part != "the run"}
    dearest = max(costs, key=lambda part: costs[part])
    how = (
        f"{units} units of {seconds:g} s in {result.ends[-1]:.0f} s, ideal {waves(units, gpus) * seconds:.0f} s; "
        f"{wall:.0f} s with the start"
    )
    figures = [
        Figure(
            f"ideal speed-up on {gpus} GPUs once all compute", result.busy(gpus, seconds), "{:.2f}", LEAST,
            f"dearest: {dearest}", least=True,
        ),
        Figure(f"ideal speed-up on {gpus} GPUs, the start included", result.share(gpus, seconds), "{:.2f}", detail=how),
    ]  # fmt: skip
    figures += [Figure(f"CPU seconds a unit, {part}", cost, "{:.3f} s") for part, cost in costs.items()]
    return [*figures, Figure("requests to the Prefect server, a unit", requests / units, "{:.1f}")]


def _requests(home: Path) -> int:
    """The requests that the Prefect server of `home` has answered, by its access log."""
    return server_log(home).read_text(errors="replace").count(' HTTP/1.1"')


def _cpu_seconds() -> Mapping[str, float]:
    """The CPU seconds of each part's living processes and their ended children."""
    used = dict.fromkeys(PARTS, 0.0)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        part = next((part for part, words in PARTS.items() if any(word in line for word in words)), None)
        if part is not None:
            used[part] += sum(int(field) for field in fields[11:15]) / _TICKS
    return used


if __name__ == "__main__":
    main()
