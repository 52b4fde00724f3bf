"""Print what a process that keeps every core busy costs a computing one: at best, half of each core.

python -m tests.bench.bench_neighbours [--rounds 3]

Each measurement is a process of its own that sets its threads as the command line does and evaluates the testbed's UNet.
Quiet and busy ones take turns, and so do those with and without that setting, so that a machine whose speed drifts drifts
for both. The limits hold on a machine on which nothing else runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from audit.machine import threads
from tests.bench.table import Figure, conclude, spread

BUSY_LIMIT, QUIET_LIMIT = 2.2, 1.02
BATCH, FORWARDS = 8, 12
SPIN = "while True: pass"


def main() -> None:
    """Measure and print; or be one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=("settled", "default"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(forwards(settled=arguments.child == "settled"))
    else:
        conclude(figures(arguments.rounds))


def figures(rounds: int = 3) -> Iterator[Figure]:
    """Yield the busy run over the quiet one, and the quiet one with our setting over the libraries' own."""
    alone = threads.running_elsewhere() == 0
    busy, shared, late, setting = [], [], [], []
    for _ in range(rounds):
        quiet, default = measured("settled"), measured("default")
        alone_on_share = measured("settled", max(1, threads.affinity() // 2))
        with neighbours(threads.affinity()):
            crowded, surprised = measured("settled"), measured("default")
        busy.append(crowded / quiet)
        shared.append(crowded / alone_on_share)
        late.append(surprised / default)
        setting.append(quiet / default)
    how = f"{threads.affinity()} cores, as many spinning processes; {rounds} rounds"
    how += "" if alone else "; other processes ran too, so no limit holds"
    yield spread("busy cores over quiet ones, wall time of the UNet", busy, BUSY_LIMIT if alone else None, how)
    yield spread("- busy cores over half as many quiet ones, which is the share left", shared, None, how)
    yield spread("- beside neighbours that came after the start, over quiet cores", late, None, how)
    yield spread("- quiet cores, threads as set here over the default", setting, QUIET_LIMIT if alone else None, how)


def measured(child: str, count: int | None = None) -> float:
    """Return the seconds that a process of its own took for its forwards, with `count` threads if given."""
    environment = {k: v for k, v in os.environ.items() if k not in (threads.COUNT, *threads.POLICIES)}
    if count is not None:
        environment[threads.COUNT] = str(count)
    command = [sys.executable, "-m", "tests.bench.bench_neighbours", "--child", child]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Open a block beside which `count` processes spin."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        time.sleep(0.2)  # until they spin, which is what the measured process looks for
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def forwards(*, settled: bool) -> float:
    """Return the seconds of some UNet evaluations after one that warms up; threads are set before torch is imported."""
    if settled:
        threads.settle()
    import torch

    from audit.diffusion.pipeline import load_pipeline
    from audit.weights.references import resolve_model

    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    latents, states = torch.randn(BATCH, *pipeline.latent_shape), pipeline.encode_text([""]).expand(BATCH, -1, -1)
    with torch.no_grad():
        pipeline.unet(latents, 501, encoder_hidden_states=states)
        started = time.perf_counter()
        for _ in range(FORWARDS):
            pipeline.unet(latents, 501, encoder_hidden_states=states)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
