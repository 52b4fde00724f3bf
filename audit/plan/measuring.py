"""Time a few UNet forwards on this machine, for the forecast of a plan."""

from __future__ import annotations

import time

import torch

from audit.diffusion.devices import DEFAULT_BATCH, pick_device
from audit.diffusion.pipeline import load_pipeline, noise_model
from audit.plan.rates import Rates
from audit.weights.references import ModelRef
from audit.weights.schedulers import AS_PIPELINE

FORWARDS = 3


def measured_rates(backbone: ModelRef, device_name: str | None = None, batch_size: int | None = None) -> Rates:
    """Return measured rates: seconds of one UNet call per picture, the fastest of a few forwards at a worker's batch size."""
    device = pick_device(device_name)
    pipeline = load_pipeline(backbone, device, samplers=(AS_PIPELINE,))  # it draws nothing
    batch = batch_size or DEFAULT_BATCH.get(device.type, 16)
    latents = torch.zeros(batch, *pipeline.latent_shape, device=device)
    states = pipeline.encode_text([""]).expand(batch, -1, -1)
    model = noise_model(pipeline.unet)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(FORWARDS + 1):  # the first one warms up and is never the fastest
            started = time.perf_counter()
            model(latents, 500, states).sum().item()  # `item` waits for the device
            best = min(best, time.perf_counter() - started)
    return Rates(seconds_per_call=best / batch, basis=f"{FORWARDS} forwards of {batch} measured on {device}")
