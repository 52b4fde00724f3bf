"""Inversion and regeneration: batches through our loop against a plain per-image script over diffusers' classes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import sample
from audit.testbed.scenes import sample_scene
from audit.weights.references import resolve_model
from tests.bench.table import Figure
from tests.diffusion.test_inversion import five_passes

IMAGES, STEPS, PASSES = 32, 25, 3


def plain(pipeline: Pipeline, images: torch.Tensor) -> torch.Tensor:
    """The straightforward script: one image at a time, a fixed number of passes, prompt encoded for every image."""
    config = {**pipeline.scheduler_config, "clip_sample": False, "timestep_spacing": "leading"}
    results = []
    for image in images:
        null = pipeline.encode_text([""])
        forward, backward = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
        forward.set_timesteps(STEPS)
        backward.set_timesteps(STEPS)
        latent = pipeline.encode_images(image[None])
        with torch.no_grad():
            for t in forward.timesteps:
                previous = latent
                for _ in range(PASSES):
                    noise = pipeline.unet(latent, t, null).sample
                    latent = forward.step(noise, t, previous).prev_sample
            for t in backward.timesteps:
                latent = backward.step(pipeline.unet(latent, t, null).sample, t, latent).prev_sample
        results.append(pipeline.decode_latents(latent))
    return torch.cat(results)


def ours(pipeline: Pipeline, images: torch.Tensor) -> torch.Tensor:
    """The same through the audit's loop, in one batch, each image stopping when it has converged."""
    null = pipeline.encode_text([""]).expand(len(images), -1, -1)
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(STEPS)
    inverted = invert(model, schedule, pipeline.encode_images(images), null, passes=PASSES, tolerance=1e-4)
    conditioning = Conditioning(null, null, 1.0, ("",) * len(images))
    return pipeline.decode_latents(sample(model, schedule, inverted.latents, conditioning).latents)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def forward_share(pipeline: Pipeline, images: torch.Tensor) -> float:
    """Share of the wall time of `ours` that is spent inside UNet and VAE forwards."""
    inside, started = [0.0], [0.0]
    handles = []
    for module in (pipeline.unet, pipeline.vae.encoder, pipeline.vae.decoder):
        handles.append(module.register_forward_pre_hook(lambda *_: started.__setitem__(0, time.perf_counter())))
        handles.append(
            module.register_forward_hook(lambda *_: inside.__setitem__(0, inside[0] + time.perf_counter() - started[0]))
        )
    seconds, _ = timed(ours, pipeline, images)
    for handle in handles:
        handle.remove()
    return inside[0] / seconds


def evaluations(pipeline: Pipeline, images: torch.Tensor) -> tuple[float, float]:
    """UNet evaluations of five fixed passes a step over ours, at the residual those reach, and that residual."""
    null = pipeline.encode_text([""]).expand(len(images), -1, -1)
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(50)
    clean = pipeline.encode_images(images)
    with torch.no_grad():
        residual = float(five_passes(model, schedule, clean, null).max())
    found = invert(model, schedule, clean, null, passes=50, tolerance=residual)
    if float(found.residual_max.max()) > residual:
        return 0.0, residual
    return 5 * schedule.steps / float(found.calls.float().mean()), residual


def figures() -> list[Figure]:
    """Speed-up over the plain script, agreement of the pictures, and the share of time inside the networks."""
    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    scenes = np.stack([sample_scene("audit", i).image for i in range(IMAGES)])
    images = torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 127.5 - 1
    ours(pipeline, images[:4])  # warm-up
    slow, expected = timed(plain, pipeline, images)
    fast, got = timed(ours, pipeline, images)
    error = (got - expected).pow(2).mean((1, 2, 3)).clamp_min(1e-12)
    agreement = float((10 * torch.log10(4 / error)).median())
    saved, residual = evaluations(pipeline, images[:8])
    how = f"{IMAGES} images, {STEPS} steps, plain: {PASSES} passes a step"
    return [
        Figure("inversion + regeneration, plain script / ours", slow / fast, "{:.2f}x", 1, how, least=True),
        Figure("agreement of the two, median PSNR", agreement, "{:.0f} dB", None, "same cases, same steps"),
        Figure(
            "UNet evaluations of an inversion, five fixed passes / ours", saved, "{:.2f}x", 1,
            f"8 images, 50 steps, at the same largest residual of {residual:.1e}", least=True,
        ),
        Figure("wall time inside model forwards", forward_share(pipeline, images), "{:.0%}", None, "UNet and VAE"),
    ]  # fmt: skip
