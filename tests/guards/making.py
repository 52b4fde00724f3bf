"""Guards as a run makes them, around one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from audit import guards
from audit.diffusion.guard import Conditioning, Guard
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import Sampled, initial_noise, sample
from audit.guards.building import Parts, build
from audit.spec.sections import Concept
from audit.spec.sections import Guard as GuardSpec
from audit.weights.references import resolve_model

RING = Concept(name="ring", phrase="ring", synonyms=("hoop",), neighbours=("circle", "square"))


def parts_of(pipeline: Pipeline) -> Parts:
    return Parts(
        standard=pipeline,
        standard_unet=lambda: pipeline.unet,
        guarded=pipeline,
        guarded_unet=lambda: pipeline.unet,
        encode=pipeline.encode_text,
        encode_standard=pipeline.encode_text,
        model=lambda sha256: resolve_model("testbed/energy"),
    )


def make(pipeline: Pipeline, name: str, concept: Concept = RING, **parameters: Any) -> Guard:
    """One guard with its parameters resolved for `concept`."""
    return build(guards.resolve(GuardSpec(name=name, parameters=parameters), concept), parts_of(pipeline))


def conditioning(pipeline: Pipeline, texts: Sequence[str], guidance: float, seeds: Sequence[int] = ()) -> Conditioning:
    """Text conditioning; without seeds the cases are numbered from 1."""
    return Conditioning(
        pipeline.encode_text(list(texts)),
        pipeline.encode_text([""] * len(texts)),
        guidance,
        tuple(texts),
        tuple(seeds) or tuple(range(1, len(texts) + 1)),
    )


def run(
    pipeline: Pipeline,
    made: Sequence[Guard],
    texts: Sequence[str],
    guidance: float,
    *,
    steps: int = 10,
    seeds: Sequence[int] = (),
    latents: torch.Tensor | None = None,
) -> Sampled:
    """Samples of one batch."""
    given = conditioning(pipeline, texts, guidance, seeds)
    start = initial_noise(given.seeds, pipeline.latent_shape) if latents is None else latents
    return sample(noise_model(pipeline.unet), pipeline.schedule(steps), start.to(pipeline.device), given, made)
