"""The testbed's two networks through torch.compile, against themselves, at the batches of an audit on this machine.

python -m tests.bench.bench_compile [--batch 32] [--rounds 5]

The two take turns. Compiling itself takes its time once for each shape and machine, as inductor keeps what it made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch

from audit.diffusion.compiled import Compiling
from audit.diffusion.devices import pick_device
from audit.diffusion.pipeline import load_pipeline, noise_model
from audit.diffusion.sampling import NoiseModel, initial_noise
from audit.weights.references import resolve_model
from tests.bench.table import Figure, conclude, spread

BACKBONES = ("testbed", "testbed/sd3")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="pictures a call; guidance has two rows for each")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    conclude(figures(arguments.batch, arguments.rounds))


@torch.no_grad()
def figures(batch: int, rounds: int, backbones: tuple[str, ...] = BACKBONES) -> Iterator[Figure]:
    """Yield for each backbone and number of rows the seconds of compiling, the gain, and the evaluations that pay for it."""
    for backbone in backbones:
        pipeline = load_pipeline(resolve_model(backbone), pick_device())
        plain = noise_model(pipeline.unet)
        compiled = noise_model(pipeline.unet, compiled=Compiling("inductor", lambda: batch).of(pipeline.unet))
        for rows in (batch, 2 * batch):
            latents = initial_noise(range(rows), pipeline.latent_shape).to(pipeline.device)
            states = pipeline.encode_text(["a photo of a ring"] * rows)

            def timed(model: NoiseModel, given: tuple[torch.Tensor, torch.Tensor] = (latents, states)) -> float:
                return _seconds(lambda: model(given[0], 501.0, given[1]))

            compiling = timed(compiled)
            timed(plain)
            pairs = [(timed(plain), timed(compiled)) for _ in range(rounds)]
            name = f"{backbone}, {rows} rows"
            saved = sum(before - after for before, after in pairs) / rounds
            worth = f"paid for after {compiling / saved:,.0f} evaluations" if saved > 0 else "never paid for"
            yield Figure(
                f"{name}: compiling", compiling, "{:.0f} s", detail=f"or less where inductor made it before; {worth}"
            )
            yield spread(
                f"{name}: quicker", [before / after for before, after in pairs], None, f"{rounds} rounds, in turns"
            )


def _seconds(evaluate: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    evaluate().sum().item()  # which waits for a GPU
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
