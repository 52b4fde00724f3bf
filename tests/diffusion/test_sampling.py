"""The denoising loop against diffusers' own scheduler, and what it promises about batches, seeds and guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.diffusion.schedule import make_schedule
from audit.errors import CheckpointError
from audit.weights.references import resolve_model
from tests.tiny import SD14_SCHEDULER


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


def conditioning(pipeline: Pipeline, texts: list[str], guidance: float) -> Conditioning:
    return Conditioning(pipeline.encode_text(texts), pipeline.encode_text([""] * len(texts)), guidance, tuple(texts))


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_loop_equals_diffusers_ddim(pipeline: Pipeline, steps: int, guidance: float) -> None:
    latents = initial_noise([1, 2], pipeline.latent_shape)
    given = conditioning(pipeline, ["abc", "d"], guidance)
    scheduler = DDIMScheduler.from_config({**SD14_SCHEDULER, "clip_sample": False})
    scheduler.set_timesteps(steps)
    expected = latents
    with torch.no_grad():
        for t in scheduler.timesteps:
            prompt = pipeline.unet(expected, t, given.prompt).sample
            null = pipeline.unet(expected, t, given.null).sample
            noise = null + guidance * (prompt - null)
            expected = scheduler.step(noise, t, expected).prev_sample
    result = sample(noise_model(pipeline.unet), pipeline.schedule(steps), latents, given)
    torch.testing.assert_close(result.latents, expected, rtol=1e-4, atol=1e-4)
    assert result.unet_calls == steps * (1 if guidance == 1 else 2)


def test_a_case_does_not_depend_on_its_batch(pipeline: Pipeline) -> None:
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(10)
    together = sample(
        model, schedule, initial_noise([3, 4, 5], pipeline.latent_shape), conditioning(pipeline, ["a", "b", "c"], 3.0)
    )
    alone = sample(model, schedule, initial_noise([4], pipeline.latent_shape), conditioning(pipeline, ["b"], 3.0))
    torch.testing.assert_close(together.latents[1:2], alone.latents, rtol=1e-4, atol=1e-5)


def test_initial_noise_is_per_seed() -> None:
    noise = initial_noise([7, 8, 7], (4, 8, 8))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(initial_noise([0], (1, 2, 2)), initial_noise([0], (1, 2, 2)))


def test_clean_end_is_the_first_training_level_not_one() -> None:
    schedule = make_schedule(SD14_SCHEDULER, 50)
    assert schedule.timesteps[0] == 1
    assert schedule.timesteps[-1] == 981
    assert schedule.levels[0].signal ** 2 == pytest.approx(0.99915, abs=1e-5)
    assert schedule.levels[-1].signal ** 2 == pytest.approx(0.00578, abs=1e-5)


def test_other_predictions_and_steps_are_refused() -> None:
    with pytest.raises(CheckpointError, match="'sample'"):
        make_schedule({**SD14_SCHEDULER, "prediction_type": "sample"}, 50)
    with pytest.raises(CheckpointError, match="divide"):
        make_schedule(SD14_SCHEDULER, 30)


def test_long_prompts_are_refused_not_cut(pipeline: Pipeline) -> None:
    with pytest.raises(CheckpointError, match="tokens"):
        pipeline.encode_text(["a b c d e f g h i j k l m n o p q"])
