"""The share of the testbed's pictures in which the classifier sees the class that was asked for, through an erased model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audit import erasers
from audit.checkpoints import apply_artefact
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.diffusion.sampling import initial_noise, sample
from audit.erasers.base import Erased
from audit.erasers.produce import produce
from audit.spec.sections import Concept, Eraser
from audit.testbed.captions import ALL_CLASSES, CLASSES
from audit.testbed.card import build_detectors, class_scores
from audit.weights.references import resolve_model

_STEPS, _GUIDANCE = 10, 3.0


@functools.cache
def testbed() -> Pipeline:
    """The testbed's backbone."""
    return load_pipeline(resolve_model("testbed"), torch.device("cpu"))


def erased(method: str, concept: str, **parameters: Any) -> Erased:
    """One class erased with the testbed's preset, with the nine others as its neighbours."""
    neighbours = tuple(name for name in CLASSES if name != concept)
    resolved = erasers.resolve_parameters(Eraser(method=method, parameters=parameters), "testbed")
    return produce(testbed(), method, [Concept(name=concept, phrase=concept, neighbours=neighbours)], resolved)


def rates(model: Erased | None, classes: Sequence[str], count: int = 8) -> Mapping[str, float]:
    """The share of `count` pictures of each class in which the classifier sees it; without a model, the backbone's."""
    pipeline = testbed()
    applied = None
    if model is not None:
        applied = apply_artefact(pipeline, model.artefact.tensors, metadata=model.artefact.metadata)
        if applied.text_encoder is not None:
            pipeline = dataclasses.replace(pipeline, text_encoder=applied.text_encoder)
    (classifier,) = [d for d in build_detectors("cpu") if d.instrument.detector == "classifier"]
    shares = {}
    for name in classes:
        texts = (f"a photo of a {name}",) * count
        states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * count)
        noise = initial_noise(range(1000, 1000 + count), pipeline.latent_shape)
        predict = applied.noise_model(texts) if applied else functools.partial(_plain, pipeline)
        with torch.no_grad():
            made = sample(predict, pipeline.schedule(_STEPS), noise, Conditioning(states, null, _GUIDANCE, texts))
        images = ((pipeline.decode_latents(made.latents) / 2 + 0.5) * 255).permute(0, 2, 3, 1).round()
        best = class_scores(classifier, list(images.to(torch.uint8).numpy())).argmax(1)
        shares[name] = float((best == ALL_CLASSES.index(name)).mean())
    return shares


def _plain(pipeline: Pipeline, latents: torch.Tensor, timestep: Any, states: torch.Tensor) -> torch.Tensor:
    return pipeline.unet(latents, timestep, encoder_hidden_states=states).sample
