"""What a GPU makes of Stable Diffusion v1.4's architecture in bfloat16 at 512 pixels, with random weights; unattended.

python -m tests.bench.bench_gpu [--minutes 7.5] [--rates FILE]

One table: pictures a second of each piece of an audit by batch size, eager and as `--compile` evaluates it; the model FLOPs
(counted by torch's own counter on one picture) as a share of what a large matrix product reaches on the same device in the
same precision; peak memory. A piece that would not fit into the time that is left is skipped and says so. `--rates` writes
the file that `erasure-audit plan --rates FILE` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from audit.diffusion.compiled import Compiling
from audit.diffusion.pipeline import Pipeline
from audit.machine.compilers import Mode
from tests.bench.gpu_models import make_clip, make_energy, make_pipeline
from tests.bench.gpu_work import PASSES, STEPS, Piece, Work
from tests.sd14 import FULL

MINUTES = 7.5
BATCHES = (1, 8, 32, 64)
COMPILING = 100.0  # seconds that torch.compile is given for one piece at one batch size


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a pipeline is measured."""

    batches: Sequence[int] = BATCHES
    some: int = 5  # sampler steps of one measurement
    product: int = 8192  # side of the matrices whose product is the ceiling
    modes: Sequence[Mode] = ("inductor", "cuda-graphs")
    backend: str | Callable[..., Any] = "inductor"  # of torch.compile
    seconds: float = 60 * MINUTES
    repeats: int = 2  # of which the fastest counts, after one that warms up


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement; without a rate `note` says why."""

    piece: str
    dtype: str
    batch: int
    compiled: str  # by which mode; empty for none
    rate: float | None = None  # pictures a second
    utilisation: float | None = None  # model FLOPs a second over the measured ceiling
    peak: float | None = None  # GB; None where the device does not say
    note: str = ""


def main() -> None:
    """Measure and print; status 2 without CUDA."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="everything together; what does not fit is skipped"
    )
    parser.add_argument("--rates", type=Path, help="write the rates of a forecast there")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "error: make bench-gpu needs a CUDA device, and torch sees none\n"
            "  next:  run it on a machine with an NVIDIA GPU and a CUDA build of torch; make bench measures the CPU",
            file=sys.stderr,
        )
        raise SystemExit(2)
    started = time.monotonic()
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, SD v1.4's architecture, random weights, 512 pixels", flush=True)
    print(f"images: {STEPS} steps; inversion with {PASSES} evaluations a step\n", flush=True)
    half = make_pipeline(FULL, device, torch.bfloat16)
    settings = Settings(seconds=60 * arguments.minutes - (time.monotonic() - started))
    rows = measure(half, device, settings, show=_printer())
    if arguments.rates:
        left = Settings(seconds=60 * arguments.minutes - (time.monotonic() - started), modes=(), batches=(8, 32))
        write_rates(arguments.rates, single_rates(half, device, left), rows, name, left.some)


def measure(
    pipeline: Pipeline, device: torch.device, settings: Settings, show: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Every row, each shown as soon as it is measured."""
    deadline = time.monotonic() + settings.seconds
    network = make_clip(pipeline, full=pipeline.resolution == 512)
    work = Work(pipeline, network, make_energy(pipeline, network), settings.some)
    ceilings = {dtype: ceiling(device, dtype, settings) for dtype in (torch.bfloat16, torch.float32)}
    for dtype, flops in ceilings.items():
        print(f"ceiling, {_name(dtype)} matrix product: {flops / 1e12:.1f} TFLOP/s", flush=True)
    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        show(row)

    for piece in work.pieces():
        _by_batch(piece, device, settings, deadline, ceilings, note)
    for mode in settings.modes:
        how = work.use(mode, settings.backend)
        for piece in work.pieces():
            if not piece.eager:
                _compiled(piece, how, device, settings, deadline, ceilings, rows, note)
    return rows


def _by_batch(
    piece: Piece, device: torch.device, settings: Settings, deadline: float, ceilings: Any, note: Callable[[Row], None]
) -> None:
    """Rows of one piece, eager, by growing batch: the last time says whether the next still fits."""
    flops = count(piece) if time.monotonic() < deadline else None
    last, before = 0.0, 0
    for batch in settings.batches:
        row = Row(piece.name, _name(_dtype(piece)), batch, "")
        expected = (1 + settings.repeats) * last * batch / before if before else 0.0
        if time.monotonic() + expected > deadline:
            note(dataclasses.replace(row, note="skipped: no time left"))
            continue
        measured, last = _measured(row, piece, device, settings, flops, ceilings)
        before = batch
        note(measured)


def _compiled(
    piece: Piece,
    how: Compiling,
    device: torch.device,
    settings: Settings,
    deadline: float,
    ceilings: Any,
    rows: Sequence[Row],
    note: Callable[[Row], None],
) -> None:
    """The row of one piece compiled, at the largest batch that ran eagerly; recorded launches pay at the smallest."""
    ran = [row.batch for row in rows if row.piece == piece.name and row.rate is not None and not row.compiled]
    chosen = min if how.mode == "cuda-graphs" else max
    row = Row(piece.name, _name(_dtype(piece)), chosen(ran, default=settings.batches[0]), how.mode)
    if not ran or time.monotonic() + (COMPILING if device.type == "cuda" else 0) > deadline:
        note(dataclasses.replace(row, note="skipped: no time left" if ran else "skipped: no eager batch ran"))
        return
    eager = next(found for found in rows if (found.piece, found.batch) == (row.piece, row.batch))
    before = how.evaluations
    measured = _measured(row, piece, device, settings, None, ceilings, eager)[0]
    note(measured if how.evaluations > before else dataclasses.replace(row, note="could not be compiled"))


def _measured(
    row: Row,
    piece: Piece,
    device: torch.device,
    settings: Settings,
    flops: float | None,
    ceilings: Any,
    eager: Row | None = None,
) -> tuple[Row, float]:
    """The row with its numbers, and the seconds that one run took."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = best(lambda: piece.run(row.batch), device, settings.repeats)
    except torch.OutOfMemoryError:
        return dataclasses.replace(row, note="out of memory"), 0.0
    rate = row.batch / (seconds * piece.times)
    used: float | None
    if eager is not None and eager.utilisation is not None and eager.rate:
        used = eager.utilisation * rate / eager.rate
    else:
        used = flops * row.batch / seconds / ceilings[_dtype(piece)] if flops else None
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return dataclasses.replace(row, rate=rate, utilisation=used, peak=peak), seconds


def best(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of a few runs after one that warms up."""
    times = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def count(piece: Piece) -> float:
    """FLOPs of the piece on one picture, as torch counts them: products and convolutions, a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        (piece.counted or piece.run)(1)
    return float(counter.get_total_flops())


def ceiling(device: torch.device, dtype: torch.dtype, settings: Settings) -> float:
    """FLOP/s of the product of two square matrices: what this device really reaches, not what its data sheet says."""
    side = settings.product
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / best(lambda: first @ second, device, settings.repeats)


def single_rates(pipeline: Pipeline, device: torch.device, settings: Settings) -> list[Row]:
    """The rows of inversion in float32, which is what latent scenarios run in."""
    whole = dataclasses.replace(pipeline, unet=pipeline.unet.float())
    network = make_clip(whole, full=whole.resolution == 512)
    work = Work(whole, network, make_energy(whole, network), settings.some)
    rows: list[Row] = []
    ceilings = {torch.float32: ceiling(device, torch.float32, settings)}
    inversion = next(piece for piece in work.pieces() if piece.name == "inversion")
    _by_batch(inversion, device, settings, time.monotonic() + settings.seconds, ceilings, rows.append)
    return rows


def write_rates(path: Path, single: Sequence[Row], rows: Sequence[Row], device: str, some: int) -> None:
    """The file for `plan --rates`: float32, because latent scenarios run in it; the batch that was fastest."""
    ran = [row for row in single if row.rate is not None]
    scored = [row.rate for row in rows if row.piece.startswith("scoring") and row.rate is not None]
    if not ran:
        print(f"{path} is not written: no float32 inversion ran in the time that was left", file=sys.stderr)
        return
    fastest = max(ran, key=lambda row: row.rate or 0)
    found: dict[str, Any] = {
        "origin": f"{device}, SD v1.4's architecture with random weights, float32, batch {fastest.batch}, "
        f"torch {torch.__version__}",
        "seconds_per_call": 1
        / ((fastest.rate or 1) * STEPS * (PASSES + 1 / some)),  # each measurement starts with one more
    }
    if scored:
        found["seconds_per_detection"] = {"clip-zero-shot": 1 / max(scored)}  # other kinds are not measured
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{path} is written; erasure-audit plan SPEC --rates {path}")


def line(row: Row) -> str:
    """The row as one of a Markdown table."""
    used = "" if row.utilisation is None else f"{row.utilisation:.0%}"
    peak = "" if row.peak is None else f"{row.peak:.1f}"
    rate = row.note if row.rate is None else f"{row.rate:.2f} images/s"
    return f"| {row.piece} | {row.dtype} | {row.batch} | {row.compiled or 'no'} | {rate} | {used} | {peak} |"


def _printer() -> Callable[[Row], None]:
    shown: list[Row] = []

    def show(row: Row) -> None:
        if not shown:
            print(
                "\n| work | dtype | batch | compiled | rate | of the ceiling | peak GB |\n|---|---|---|---|---|---|---|"
            )
        shown.append(row)
        print(line(row), flush=True)

    return show


def _dtype(piece: Piece) -> torch.dtype:
    return torch.bfloat16 if piece.half else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
