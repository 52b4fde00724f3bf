"""Print how long a whole SD v1.4 UNet checkpoint takes to be recognised and footprinted, and the memory it needs.

python -m tests.bench.bench_checkpoints [--size full|cut]

The checkpoint is measured in a process of its own, so that its peak memory is not the peak of the process that made the
files. Mapped pages of the files count as memory here, although the system can take them back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.bench.table import Figure, conclude
from tests.sd14 import CUT, FULL, make_unet, write_sd14

LIMIT_SECONDS, LIMIT_COPIES = 20, 2


def main() -> None:
    """Measure one size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("full", "cut"), default="full", help="full writes 6.6 GB of files")
    parser.add_argument("--measure", nargs=2, metavar=("PIPELINE", "CHECKPOINT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        print(json.dumps(measured(*map(Path, options.measure))))
    else:
        conclude(figures(options.size))


def figures(size: str = "full") -> list[Figure]:
    """Seconds and peak memory of a safetensors file and of a pickle, both holding every tensor of the UNet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline, weights = backbone(folder / "pipeline", size), 0
        found = []
        for suffix in ("safetensors", "pt"):
            path = folder / f"erased.{suffix}"
            weights = write_erased(pipeline, path)
            found += _figures(pipeline, path, suffix, weights)
            path.unlink()
        return found


def _figures(pipeline: Path, path: Path, suffix: str, weights: int) -> list[Figure]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.bench_checkpoints", "--measure", pipeline, path]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    copies = said["bytes"] / weights
    what = f"{weights / 1e9:.2f} GB UNet, {suffix}; {said['tensors']} tensors differ"
    return [
        Figure(f"digest of a checkpoint ({suffix})", said["digest_seconds"], "{:.1f} s", None, "read once, then remembered"),
        Figure(
            f"recognise and footprint a checkpoint ({suffix})", said["seconds"], "{:.1f} s", LIMIT_SECONDS, what
        ),
        Figure(
            f"peak memory of that ({suffix})", copies, "{:.2f} copies", LIMIT_COPIES,
            "copies of the weights, above what the process holds before",
        ),
    ]  # fmt: skip


def measured(pipeline: Path, checkpoint: Path) -> dict[str, float]:
    """Seconds, peak bytes above the start and tensors that differ, of one inspection in this process."""
    from audit.checkpoints.inspection import inspect
    from audit.weights.checkpoints import resolve_checkpoint
    from audit.weights.references import resolve_model

    model, started = resolve_model(str(pipeline)), time.perf_counter()
    ref = resolve_checkpoint(str(checkpoint))
    digest, before, started = time.perf_counter() - started, _peak(), time.perf_counter()
    found = inspect(ref, model)
    seconds = time.perf_counter() - started
    return {
        "digest_seconds": digest,
        "seconds": seconds,
        "bytes": _peak() - before,
        "tensors": found["facts"]["tensors"],
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def backbone(folder: Path, size: str) -> Path:
    """A pipeline folder; at full size only the UNet is, because nothing else is read."""
    write_sd14(folder, CUT)
    if size == "full":
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in make_unet(FULL).state_dict().items()}
        generator = torch.Generator().manual_seed(0)
        state = {name: torch.empty(shape).uniform_(-0.1, 0.1, generator=generator) for name, shape in shapes.items()}
        save_file(state, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def write_erased(pipeline: Path, path: Path) -> int:
    """Bytes of the weights in an erased copy of the pipeline's UNet, every tensor changed."""
    from safetensors.torch import load_file

    (source,) = (pipeline / "unet").glob("*.safetensors")
    state = load_file(source)
    for tensor in state.values():
        tensor.add_(0.01)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return sum(tensor.nbytes for tensor in state.values())


if __name__ == "__main__":
    main()
