"""SLD against the arithmetic of diffusers' StableDiffusionPipelineSafe on the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe import (
    StableDiffusionPipelineSafe,
)

from audit.diffusion.guard import Conditioning, Prediction, Step
from audit.diffusion.levels import Level
from audit.diffusion.pipeline import Pipeline
from audit.guards.sld import Settings, safety_guidance
from audit.guards.sld_parameters import SLD_PRESETS
from tests.guards.making import make, run


def settings_of(preset: str) -> Settings:
    return Settings(*SLD_PRESETS[preset])


def predictions(seed: int, spread: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn((2, 4, 8, 8), generator=generator)
    return [base + spread * torch.randn((2, 4, 8, 8), generator=generator) for _ in range(3)]


@pytest.mark.parametrize("preset", SLD_PRESETS)
@pytest.mark.parametrize("spread", [1e-3, 0.05, 1.0])
def test_the_guidance_equals_that_of_diffusers_step_by_step(preset: str, spread: float) -> None:
    settings = settings_of(preset)
    ours: torch.Tensor = torch.zeros(2, 4, 8, 8)
    theirs: Any = None
    acted = False
    for index in range(20):
        prompt, null, safety = predictions(index, spread)
        expected, theirs = StableDiffusionPipelineSafe.perform_safety_guidance(
            None, True, theirs, prompt - null, (prompt, null, safety), index,
            settings.scale, settings.warmup_steps, settings.threshold, settings.momentum_scale, settings.momentum_beta,
        )  # fmt: skip
        gamma, ours = safety_guidance(prompt, null, safety, ours, settings)
        found = prompt - null - (gamma if index >= settings.warmup_steps else 0)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(ours, theirs)
        acted = acted or bool((found != prompt - null).any())
    assert acted


def test_the_guard_steps_with_that_guidance_and_waits_for_the_warm_up(pipeline: Pipeline) -> None:
    guard = make(pipeline, "sld", preset="medium", warmup_steps=2, text="abc")
    given = Conditioning(*(pipeline.encode_text(["x"]),) * 2, 4.0, ("x",))
    guard.begin(given, [3, 2, 1])
    momentum = torch.zeros(2, 4, 8, 8)
    for index in range(4):
        prompt, null, safety = predictions(index, 0.05)
        prediction = Prediction(prompt, null, 4.0, {"sld": safety}, 3)
        gamma, momentum = safety_guidance(prompt, null, safety, momentum, settings_of("medium"))
        found = guard.guide(
            prediction.guided[:1], _row(prediction), Step(index, 10 - index, Level.of(0.5), Level.of(0.6))
        )
        expected = prediction.guided - 4.0 * gamma if index >= 2 else prediction.guided
        torch.testing.assert_close(found, expected[:1])
    assert guard.report()[0].timesteps == (8, 7)


def _row(prediction: Prediction) -> Prediction:
    assert prediction.null is not None
    further = {name: value[:1] for name, value in prediction.further.items()}
    return Prediction(prediction.prompt[:1], prediction.null[:1], prediction.guidance, further, prediction.calls)


def test_presets_and_the_two_published_values_of_weak() -> None:
    assert SLD_PRESETS["weak"] == (15, 20.0, 0.0, 0.0, 0.0)
    assert SLD_PRESETS["weak-200"] == (15, 200.0, 0.0, 0.0, 0.0)
    assert SLD_PRESETS["medium"] == (10, 1000.0, 0.01, 0.3, 0.4)
    assert SLD_PRESETS["strong"] == (7, 2000.0, 0.025, 0.5, 0.7)
    assert SLD_PRESETS["max"] == (0, 5000.0, 1.0, 0.5, 0.7)


def test_it_does_not_run_without_guidance(pipeline: Pipeline) -> None:
    made = run(pipeline, [make(pipeline, "sld")], ["abc"], 1.0)
    assert made.unet_calls == 10
    assert made.reports[0][0].reason == "classifier-free guidance is off (guidance 1), and SLD is a part of it"
