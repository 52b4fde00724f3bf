"""Samplers that invert exactly: the round trip, what it needs, and that they sample like DDIM in the limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.diffusion.exact_sampling import METHODS, Pair, coefficients, invert_exactly, sample_exactly
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import sample
from audit.diffusion.schedule import make_schedule
from audit.testbed.scenes import sample_scene
from audit.weights.references import resolve_model
from tests.diffusion.test_inversion import clean, mixture
from tests.tiny import SD14_SCHEDULER


def null(count: int) -> Conditioning:
    states = torch.zeros(count, 1, 1)
    return Conditioning(states, states, 1.0, ("",) * count)


def error(returned: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((returned - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [10, 50])
def test_the_round_trip_is_exact_to_rounding(method: str, steps: int) -> None:
    schedule, z0 = make_schedule(SD14_SCHEDULER, steps), clean(8)
    pair = invert_exactly(mixture, schedule, z0, null(8).prompt, method)
    back = sample_exactly(mixture, schedule, pair, null(8), method)
    assert error(back.latents, z0) < 1e-6
    assert back.unet_calls == steps - 1


@pytest.mark.parametrize("method", METHODS)
def test_both_latents_are_needed(method: str) -> None:
    schedule, z0 = make_schedule(SD14_SCHEDULER, 50), clean(8)
    pair = invert_exactly(mixture, schedule, z0, null(8).prompt, method)
    half = Pair(pair.noisiest, pair.noisiest)
    assert error(sample_exactly(mixture, schedule, half, null(8), method).latents, z0) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_step_keeps_what_any_sampler_must_keep(method: str) -> None:
    """Exact when the noise and the clean picture stay the same along the way: x_i = alpha_i x + sigma_i noise."""
    schedule = make_schedule(SD14_SCHEDULER, 25)
    found = coefficients(schedule, method)
    alpha, sigma = [level.signal for level in schedule.levels], [level.noise for level in schedule.levels]
    for i, (a, b, c) in enumerate(zip(found.a, found.b, found.c, strict=True), start=1):
        assert a * alpha[i + 1] + b * alpha[i] == pytest.approx(alpha[i - 1], abs=1e-12)
        assert a * sigma[i + 1] + b * sigma[i] + c == pytest.approx(sigma[i - 1], abs=1e-12)


def test_o_belm_follows_the_same_trajectory_as_ddim() -> None:
    """From DDIM's own two noisiest latents of a fine grid it ends where DDIM ends."""
    schedule, z0 = make_schedule(SD14_SCHEDULER, 50), clean(8)
    pair = invert_exactly(mixture, schedule, z0, null(8).prompt, "o-belm")
    assert error(sample(mixture, schedule, pair.noisiest.float(), null(8)).latents, z0) < 0.1


def test_unknown_methods_and_single_steps_are_refused() -> None:
    for method, steps in (("edict", 10), ("bdia", 1)):
        with pytest.raises(ValueError, match="no exact sampler"):
            coefficients(make_schedule(SD14_SCHEDULER, steps), method)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.mark.parametrize("method", METHODS)
def test_the_round_trip_is_exact_through_a_unet(tiny: Pipeline, method: str) -> None:
    z0 = torch.randn(2, *tiny.latent_shape, generator=torch.Generator().manual_seed(0))
    states = tiny.encode_text(["", ""])
    pair = invert_exactly(noise_model(tiny.unet), tiny.schedule(10), z0, states, method)
    given = Conditioning(states, states, 1.0, ("", ""))
    assert error(sample_exactly(noise_model(tiny.unet), tiny.schedule(10), pair, given, method).latents, z0) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_round_trip_is_exact_on_the_testbed(method: str) -> None:
    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    scenes = torch.stack([torch.from_numpy(sample_scene("audit", i).image) for i in range(2)])
    z0 = pipeline.encode_images(scenes.permute(0, 3, 1, 2).float() / 127.5 - 1)
    states = pipeline.encode_text(["", ""])
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(25)
    pair = invert_exactly(model, schedule, z0, states, method)
    back = sample_exactly(model, schedule, pair, Conditioning(states, states, 1.0, ("", "")), method)
    assert error(back.latents, z0) < 1e-5
