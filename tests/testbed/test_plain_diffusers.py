"""The shipped pipeline folder samples with diffusers alone, and gives what the audit's own sampler gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.testbed import saving
from audit.testbed.tokenizer import make_tokenizer
from audit.weights.files import safetensors_header
from audit.weights.references import resolve_model
from audit.weights.testbed import weights_path

PROMPT = "a red ring"


def test_the_shipped_folder_samples_as_it_stands() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(weights_path("pipeline"))
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert pipe.scheduler.config["clip_sample"] is False
    pipe.set_progress_bar_config(disable=True)
    ours = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    latents = initial_noise([3, 4], ours.latent_shape)
    theirs = pipe(
        [PROMPT] * 2, num_inference_steps=10, guidance_scale=5.0, latents=latents, output_type="latent"
    ).images
    given = Conditioning(ours.encode_text([PROMPT] * 2), ours.encode_text([""] * 2), 5.0, (PROMPT, PROMPT))
    found = sample(noise_model(ours.unet), ours.schedule(10), latents, given).latents
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3)
    assert found.abs().max() > 1  # clipped to [-1, 1] it would be another picture


def test_every_part_is_stored_in_one_dtype_and_small() -> None:
    files = list(weights_path("pipeline").rglob("*.safetensors"))
    assert {stored.dtype for file in files for stored in safetensors_header(file).values()} == {"F16"}
    assert sum(file.stat().st_size for file in weights_path("pipeline").rglob("*") if file.is_file()) < 20e6


def test_a_retrained_pipeline_would_be_saved_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "WEIGHTS", tmp_path)
    shipped = weights_path("pipeline")
    saving.save_pipeline(
        AutoencoderKL.from_pretrained(shipped / "vae"),
        CLIPTextModel(CLIPTextConfig(**json.loads((shipped / "text_encoder/config.json").read_text()))),
        make_tokenizer(),
        UNet2DConditionModel.from_pretrained(shipped / "unet"),
    )
    for name in ("model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json"):
        assert (tmp_path / "pipeline" / name).read_bytes() == (shipped / name).read_bytes(), name
    assert DDIMScheduler.from_pretrained(shipped, subfolder="scheduler").config["steps_offset"] == 1
