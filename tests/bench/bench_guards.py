"""What guards cost on the testbed: IRECE in UNet forwards, EGLOCE per inner iteration, and nothing at all when off.

python -m tests.bench.bench_guards [images] [steps]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from audit import guards
from audit.diffusion.guard import Conditioning, Guard
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.guards.building import Parts, build
from audit.spec.sections import Concept
from audit.spec.sections import Guard as GuardSpec
from audit.weights.references import resolve_model
from tests.bench.table import Figure, print_table

IMAGES, STEPS, ROUNDS = 8, 25, 5
RING = Concept(name="ring", phrase="ring", synonyms=("hoop",), neighbours=("circle", "square"))
TEXT = "a photo of a ring and a square"


def make(pipeline: Pipeline, name: str, **parameters: Any) -> Guard:
    """A guard around the backbone itself."""
    parts = Parts(
        standard=pipeline,
        standard_unet=lambda: pipeline.unet,
        guarded=pipeline,
        guarded_unet=lambda: pipeline.unet,
        encode=pipeline.encode_text,
        encode_standard=pipeline.encode_text,
        model=lambda sha256: resolve_model("testbed/energy"),
    )
    return build(guards.resolve(GuardSpec(name=name, parameters=parameters), RING), parts)


class Workload:
    """One batch of pictures from one prompt."""

    def __init__(self, pipeline: Pipeline, images: int, steps: int) -> None:
        self.pipeline, self.steps = pipeline, steps
        texts = (TEXT,) * images
        states = pipeline.encode_text([TEXT]).expand(images, -1, -1)
        null = pipeline.encode_text([""]).expand(images, -1, -1)
        self.given = Conditioning(states, null, 1.0, texts, tuple(range(images)))
        self.noise = initial_noise(range(images), pipeline.latent_shape)

    def run(self, *listed: Guard) -> Any:
        """Samples through guards."""
        model = noise_model(self.pipeline.unet)
        return sample(model, self.pipeline.schedule(self.steps), self.noise, self.given, listed)

    @torch.no_grad()
    def bare(self) -> torch.Tensor:
        """The loop without any thought of guards."""
        model, schedule = noise_model(self.pipeline.unet), self.pipeline.schedule(self.steps)
        latents = self.noise.float()
        for i in reversed(range(self.steps)):
            noise = model(latents, schedule.timesteps[i], self.given.prompt).float()
            latents = schedule.a[i] * latents + schedule.b[i] * noise
        return latents

    @torch.no_grad()
    def forward(self) -> None:
        """One UNet evaluation of the batch."""
        noise_model(self.pipeline.unet)(self.noise, 501, self.given.prompt)


def best(rounds: int, *works: Callable[[], Any]) -> list[float]:
    """The fastest time of each work; they take turns, so that a busy machine is busy for all of them."""
    times = [float("inf")] * len(works)
    for _ in range(rounds + 1):  # the first round warms up and is hardly ever the fastest
        for i, work in enumerate(works):
            started = time.perf_counter()
            work()
            times[i] = min(times[i], time.perf_counter() - started)
    return times


def counted(pipeline: Pipeline, work: Callable[[], Any]) -> int:
    """UNet evaluations during `work`, in pictures."""
    rows: list[int] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    work()
    handle.remove()
    return sum(rows)


def figures(images: int = IMAGES, steps: int = STEPS, rounds: int = ROUNDS) -> list[Figure]:
    """Calls and times, in UNet forwards of the same batch."""
    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    load = Workload(pipeline, images, steps)
    how = f"{images} images, {steps} steps, guidance 1, best of {rounds}"
    plain, bare, forward = best(rounds, load.run, load.bare, load.forward)
    off = Figure("loop with guards switched off over the bare loop", plain / bare - 1, "{:+.2%}", 0.01, how)
    found = [off]
    calls = counted(pipeline, load.run)
    for label, parameters in (("literal", {}), ("contrast-neighbours", {"localisation": "contrast-neighbours"})):
        guard = make(pipeline, "irece", **parameters)
        more = (counted(pipeline, lambda guard=guard: load.run(guard)) - calls) / images  # type: ignore[misc]
        guarded, again = best(rounds, lambda guard=guard: load.run(guard), load.run)  # type: ignore[misc]
        found.append(Figure(f"IRECE, {label}, UNet calls per image", more, "{:g}", 2, how))
        forwards = (guarded - again) / forward
        found.append(Figure(f"IRECE, {label}, time per image", forwards, "{:.1f} UNet forwards", 2, how))
    # One step in the middle: a window between two steps of the grid would measure nothing.
    at = min(pipeline.schedule(steps).timesteps, key=lambda timestep: abs(timestep - 501))
    for gradient in ("full", "stop"):
        window = {"window": [at, at], "gradient": gradient}
        one, four = (make(pipeline, "egloce", iterations=count, **window) for count in (1, 4))
        acted = [counted(pipeline, lambda guard=guard: load.run(guard)) - calls for guard in (one, four)]  # type: ignore[misc]
        if not 0 < acted[0] < acted[1]:
            raise RuntimeError(f"EGLOCE did not act in its window at {at}: {acted} further UNet calls")
        first, more = best(max(1, rounds // 2), lambda one=one: load.run(one), lambda four=four: load.run(four))  # type: ignore[misc]
        forwards = (more - first) / 3 / forward
        found.append(
            Figure(f"EGLOCE, {gradient} gradient, per inner iteration", forwards, "{:.1f} UNet forwards", None, how)
        )
    return found


if __name__ == "__main__":
    print_table(figures(*(int(text) for text in sys.argv[1:])))
