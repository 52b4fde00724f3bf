"""Samplers of production against diffusers' own pipeline on the shipped testbed, on the same latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline

from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import Sampled, initial_noise, sample
from audit.diffusion.schedulers import DiffusersSolver
from audit.weights.references import resolve_model
from audit.weights.schedulers import Chosen, choose, own_scheduler
from audit.weights.testbed import weights_path

PROMPTS, SEEDS, GUIDANCE = ("a red ring", "a blue star"), (3, 4), 5.0
# Name in a spec -> class and settings, as a user of diffusers writes them.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


@pytest.fixture(scope="module")
def ours() -> Pipeline:
    return load_pipeline(resolve_model("testbed"), torch.device("cpu"))


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(weights_path("pipeline"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def given(ours: Pipeline, rows: Sequence[int] = (0, 1)) -> Conditioning:
    texts = tuple(PROMPTS[row] for row in rows)
    null = ours.encode_text([""] * len(texts))
    return Conditioning(ours.encode_text(texts), null, GUIDANCE, texts, tuple(SEEDS[row] for row in rows))


def sampled(ours: Pipeline, chosen: Chosen, steps: int, rows: Sequence[int] = (0, 1), guards: Any = ()) -> Sampled:
    seeds = [SEEDS[row] for row in rows]
    solver = DiffusersSolver(chosen, steps, seeds, ours.latent_shape)
    return sample(noise_model(ours.unet), solver, initial_noise(seeds, ours.latent_shape), given(ours, rows), guards)


def pixels(ours: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    return (ours.decode_latents(latents) + 1) * 127.5


def require_equal(ours: Pipeline, theirs: StableDiffusionPipeline, chosen: Chosen, scheduler: Any, steps: int) -> None:
    theirs.scheduler = scheduler
    made = theirs(
        list(PROMPTS),
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images
    mine = sampled(ours, chosen, steps)
    assert (pixels(ours, mine.latents) - pixels(ours, made)).abs().max() <= 1.0
    torch.testing.assert_close(mine.latents, made, rtol=1e-4, atol=1e-4)
    assert mine.unet_calls == 2 * len(scheduler.timesteps)


@pytest.mark.parametrize(("name", "steps"), [(name, 4) for name in THEIRS] + [("euler", 3), ("unipc", 7)])
def test_each_scheduler_makes_the_pictures_of_diffusers_own_pipeline(
    name: str, steps: int, ours: Pipeline, theirs: StableDiffusionPipeline
) -> None:
    """The same seeds in the same batch: initial noise and every later draw come from one generator for each picture."""
    written = own_scheduler(weights_path("pipeline"))
    named, changes = THEIRS[name]
    scheduler = getattr(diffusers, named).from_config(written, **changes)
    require_equal(ours, theirs, choose(written, name), scheduler, steps)
