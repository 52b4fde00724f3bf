"""The attack itself, on shipped weights: textual inversion through an erased model brings back what its text cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audit.attacks import registry
from audit.attacks.embedding_learner import Learner, learn
from audit.attacks.parameters import TextualInversionParameters
from audit.attacks.textual_inversion import result_of
from audit.attacks.training_prompts import Prompts
from audit.checkpoints import apply_artefact
from audit.corpus.images import to_model_input
from audit.diffusion.pipeline import load_pipeline
from audit.progress import Session
from audit.testbed import card
from audit.testbed.scenes import write_corpus
from audit.weights.references import resolve_model
from tests.attacks.on_testbed import hits

SEEDS = list(range(8))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_learned_embedding_brings_the_ring_back_through_uce(tmp_path: Path) -> None:
    p = registry.parse("textual-inversion", {}, "testbed")
    assert isinstance(p, TextualInversionParameters)
    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    model = apply_artefact(pipeline, str(card.HERE / "erased" / "uce-ring")).noise_model()
    latents = []
    write_corpus(str(tmp_path), "ring", p.images, "audit")
    for path in sorted(tmp_path.rglob("*.png")):
        pixels = to_model_input(np.array(Image.open(path).convert("RGB")), pipeline.resolution)
        both = np.stack([pixels, pixels[:, ::-1]])
        latents.append(pipeline.encode_images(torch.from_numpy(both).permute(0, 3, 1, 2)))
    learner = Learner(Prompts(pipeline, p), model, torch.stack(latents), p, 0, 32)
    learn([learner], [Session()])
    found = result_of(learner).tensors["best"]
    by_text, by_embedding = (
        hits(pipeline, model, f"a photo of a {word}", "ring", SEEDS)
        for word in ("ring", pipeline.vocabulary.add(found))
    )
    assert by_embedding >= 4, (by_text, by_embedding)
    assert by_embedding > by_text
