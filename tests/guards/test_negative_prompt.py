"""The negative prompt: what it replaces, and the exact text in its report."""

from __future__ import annotations

import hashlib

import torch

from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from tests.guards.making import conditioning, make, run


def test_it_replaces_the_unconditional_branch(pipeline: Pipeline) -> None:
    guarded = run(pipeline, [make(pipeline, "negative-prompt", text="xyz")], ["abc"], 4.0)
    given = conditioning(pipeline, ["abc"], 4.0)
    latents = initial_noise([1], pipeline.latent_shape)
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(10)
    negative = pipeline.encode_text(["xyz"])
    with torch.no_grad():
        for i in reversed(range(10)):
            avoided = model(latents, schedule.timesteps[i], negative)
            noise = avoided + 4.0 * (model(latents, schedule.timesteps[i], given.prompt) - avoided)
            latents = schedule.a[i] * latents + schedule.b[i] * noise
    torch.testing.assert_close(guarded.latents, latents, rtol=1e-4, atol=1e-4)
    plain = sample(model, schedule, initial_noise([1], pipeline.latent_shape), given)
    assert not torch.equal(plain.latents, guarded.latents)


def test_the_exact_text_and_its_digest_are_in_the_report(pipeline: Pipeline) -> None:
    ((report,),) = run(pipeline, [make(pipeline, "negative-prompt")], ["abc"], 4.0).reports
    assert report.facts == {"text": "ring", "text_sha256": hashlib.sha256(b"ring").hexdigest()}
    assert len(report.timesteps) == 10
