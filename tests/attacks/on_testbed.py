"""The testbed with one of its shipped erased models as it lies on disk, and how often its pictures show a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from audit.checkpoints import apply_artefact
from audit.compute.models import Models
from audit.diffusion.guard import Conditioning, Guard
from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.diffusion.sampling import NoiseModel, Solver, initial_noise, sample
from audit.storage.journal import Journal
from audit.testbed import card
from audit.weights.references import resolve_model


class OnDisk(Models):
    """The testbed's models, in which the erased one is a shipped one, without an erase unit."""

    def __init__(self, erased: str) -> None:
        pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
        super().__init__(pipeline.ref, Journal("memory"), torch.device("cpu"))
        self._pipeline = pipeline
        self._erased = apply_artefact(pipeline, str(card.HERE / "erased" / erased))

    def _load(self, erase_key: str | None, precision: str) -> Any:
        return self._erased if erase_key else self.pipeline.unet


def hits(
    pipeline: Pipeline,
    network: NoiseModel,
    text: str,
    concept: str,
    seeds: list[int],
    solver: Solver | None = None,
    guards: Sequence[Guard] = (),
) -> int:
    """The number of pictures, one for each seed, in which the testbed's classifier finds the concept."""
    (classifier,) = [d for d in card.build_detectors("cpu") if d.instrument.detector == "classifier"]
    texts = (text,) * len(seeds)
    states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * len(seeds))
    given = Conditioning(states, null, card.GUIDANCE, texts, tuple(seeds))
    start = initial_noise(seeds, pipeline.latent_shape)
    made = sample(network, solver or pipeline.schedule(10), start, given, guards)
    images = (pipeline.decode_latents(made.latents) / 2 + 0.5) * 255
    pictures = list(images.clamp(0, 255).permute(0, 2, 3, 1).round().to(torch.uint8).numpy())
    scores = card.class_scores(classifier, pictures)[:, card.ALL_CLASSES.index(concept)]
    return int((scores >= 0.5).sum())
