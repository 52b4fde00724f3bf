"""Erasers train on latents of the backbone's own trajectories, whatever its network predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import load_pipeline, noise_model
from audit.diffusion.sampling import sample
from audit.erasers.concept_ablation_parameters import ConceptAblationParameters
from audit.erasers.esd_parameters import EsdParameters
from audit.erasers.latents import Latents, predict
from audit.erasers.phrases import prompts
from audit.erasers.pictures import Pictures
from audit.spec.sections import Concept
from audit.weights.references import resolve_model
from tests.tiny_families import write_sd2, write_sd3

CPU = torch.device("cpu")


@pytest.mark.parametrize("write", [write_sd2, write_sd3])
def test_training_latents_lie_on_the_sampler_s_trajectory(write: Callable[[Path], Path], tmp_path: Path) -> None:
    pipeline = load_pipeline(resolve_model(str(write(tmp_path / "backbone"))), CPU)
    options = EsdParameters(
        sampler="ddim", steps=4, pixels=None, guidance=3.0, pool=2, batch_size=1, compute="float32", seed=5
    )
    concepts = prompts(pipeline, [Concept(name="ring", phrase="ring")], ("a {phrase}",), False)
    frozen = lambda x, t, states: predict(pipeline.unet, x, t, states, "float32")  # noqa: E731
    latents = Latents(pipeline, frozen, frozen, options, concepts=concepts)
    parts = latents._trajectory(0, 2, torch.Generator().manual_seed(1))
    states = concepts[0].states.expand(2, -1, -1)
    given = Conditioning(states, pipeline.encode_text(["", ""]), 3.0, ("", ""))
    done = sample(noise_model(pipeline.unet), pipeline.schedule(4), parts[0].latents, given, keep=range(4))
    for number, part in enumerate(parts):
        assert torch.allclose(part.latents, done.passed[number], atol=1e-4), number


def test_noised_pictures_ask_for_what_the_network_predicts(tmp_path: Path) -> None:
    """The v of Salimans and Ho (2022) from the noise that was added: v = signal xi - noise x0."""
    pipeline = load_pipeline(resolve_model(str(write_sd2(tmp_path / "sd2"))), CPU)
    pictures = Pictures(pipeline, lambda x, t, s: x, ConceptAblationParameters(pixels=None), [])
    clean, timesteps = torch.randn(2, *pipeline.latent_shape), torch.tensor([20, 700])
    noised = pictures.noised(clean, timesteps, torch.Generator().manual_seed(3))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    signal, level = pipeline.training_levels()[timesteps].T[..., None, None, None]
    assert torch.allclose(noised.latents, signal * clean + level * noise)
    assert torch.allclose(noised.target, signal * noise - level * clean)
