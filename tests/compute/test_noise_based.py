"""Noise after each step: taken as diffusers' DDIM takes it, planned beside its control, and counted to the end."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from audit import run
from audit.diffusion.guard import Conditioning
from audit.diffusion.levels import Level
from audit.diffusion.noisy_steps import Form, NoisySteps, posterior_deviation
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.errors import SpecError
from audit.plan.document import KINDS, Draft, read_plan
from audit.plan.forecast import calls_of
from audit.plan.identities import GenerateIdentity, StepNoise
from audit.records import Control
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.weights.references import resolve_model
from tests.flows.audits import finish_run, tiny_spec
from tests.tiny_families import write_sd2, write_sd3

PROMPTS = ["a ring", "no moon"]
SEEDS: tuple[int, ...] = (3, 4)
SAMPLER = {"steps": 4, "guidance": 3.0}


def sampled(backbone: Pipeline, rows: slice, eta: float, form: Form = "ddim", noise_scale: float = 1.0) -> torch.Tensor:
    states, null = backbone.encode_text(PROMPTS)[rows], backbone.encode_text([""] * 2)[rows]
    given = Conditioning(states, null, 3.0, tuple(PROMPTS[rows]), SEEDS[rows])
    start = initial_noise(SEEDS[rows], backbone.latent_shape)
    solver = NoisySteps(backbone.schedule(10), eta, form, noise_scale, SEEDS[rows], backbone.latent_shape)
    return sample(noise_model(backbone.unet), solver, start, given).latents


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_it_is_ddim_of_diffusers_at_the_same_eta(family: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_folder if family == "sd1" else write_sd2(tmp_path / "sd2")
    backbone = load_pipeline(resolve_model(str(folder)), torch.device("cpu"))
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        prompt=PROMPTS,
        num_inference_steps=10,
        guidance_scale=3.0,
        eta=0.7,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images
    assert torch.allclose(sampled(backbone, slice(2), 0.7), theirs, atol=1e-4)


def test_the_deviation_is_that_of_the_papers_formula() -> None:
    above, below = 0.4, 0.7  # alpha-bar
    expected = math.sqrt((1 - below) / (1 - above)) * math.sqrt(1 - above / below)
    assert posterior_deviation(Level.of(above), Level.of(below)) == pytest.approx(expected)
    assert posterior_deviation(Level(0.4, 0.6), Level(1.0, 0.0)) == 0


def test_noise_that_is_added_lies_on_top_of_the_deterministic_step(tiny_folder: Path) -> None:
    backbone = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    schedule, latents = backbone.schedule(10), initial_noise(SEEDS, backbone.latent_shape)
    predicted = initial_noise((8, 9), backbone.latent_shape)
    step = schedule.step(6)
    sigma = posterior_deviation(step.level, step.below)
    moved = NoisySteps(schedule, 1.5, "added", 1.2, SEEDS, backbone.latent_shape).move(latents, predicted, step.index)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    for generator in generators:
        torch.randn(backbone.latent_shape, generator=generator)  # the case's initial noise
    drawn = torch.stack([torch.randn(backbone.latent_shape, generator=generator) for generator in generators])
    assert sigma > 0.1
    assert torch.allclose(moved, schedule.move(latents, predicted, step.index) + 1.2 * 1.5 * sigma * drawn, atol=1e-5)


@pytest.mark.parametrize("eta", [1.0, 1.85])
def test_a_picture_is_finite_and_does_not_depend_on_its_batch(eta: float, tiny_folder: Path) -> None:
    backbone = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    together = sampled(backbone, slice(2), eta)
    assert torch.isfinite(together).all()
    for row in range(2):
        assert torch.allclose(sampled(backbone, slice(row, row + 1), eta), together[row : row + 1], atol=1e-4)


def test_a_flow_is_sampled_with_noise_too(tmp_path: Path) -> None:
    backbone = load_pipeline(resolve_model(str(write_sd3(tmp_path / "sd3"))), torch.device("cpu"))
    plain = sampled(backbone, slice(2), 1e-9)
    start = initial_noise(SEEDS, backbone.latent_shape)
    states, null = backbone.encode_text(PROMPTS), backbone.encode_text([""] * 2)
    given = Conditioning(states, null, 3.0, tuple(PROMPTS), SEEDS)
    assert torch.allclose(
        plain, sample(noise_model(backbone.unet), backbone.schedule(10), start, given).latents, atol=1e-4
    )
    noisy = sampled(backbone, slice(2), 1.0)
    assert torch.isfinite(noisy).all() and not torch.allclose(noisy, plain, atol=0.1)


def spec_of(folder: Path, pipeline: Path, text: bool = False, **scenario: Any) -> Path:
    given = {"name": "noise-based", "cases": 3, "sampler": SAMPLER, **scenario}
    before = [{"name": "text", "cases": 3, "sampler": SAMPLER}] if text else []
    return tiny_spec(folder, pipeline, scenarios=[*before, given])


def drafted(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


def cases_of(draft: Draft, scenario: str, control: Control | None) -> list[dict[str, Any]]:
    cells = {p.cell.cell_id for p in draft.cells if (p.cell.scenario, p.cell.control) == (scenario, control)}
    return [row for row in draft.cases.to_pylist() if row["cell_id"] in cells]


def test_the_control_is_the_text_scenario_with_its_pictures(tmp_path: Path, tiny_folder: Path) -> None:
    draft = drafted(spec_of(tmp_path, tiny_folder, text=True))
    text = cases_of(draft, "text", None)
    noisy, plain = (cases_of(draft, "noise-based", control) for control in (None, Control.PLAIN_SAMPLING))
    plain_of_defence = [row for row in plain if row["image_id"] in {one["image_id"] for one in text}]
    assert len(noisy) == len(text) == len(plain_of_defence) == 3 and len(plain) == 6
    for name in ("seed", "prompt"):
        assert [row[name] for row in noisy] == [row[name] for row in text]
    assert not {row["image_id"] for row in noisy} & {row["image_id"] for row in [*text, *plain]}
    noises = {
        unit.identity.step_noise for unit in draft.units_of("generate") if isinstance(unit.identity, GenerateIdentity)
    }
    assert noises == {None, StepNoise(1.34, "ddim", 1.0)}


def test_another_noise_makes_other_pictures(tmp_path: Path, tiny_folder: Path) -> None:
    def pictures(**given: Any) -> set[int]:
        return {
            row["image_id"] for row in cases_of(drafted(spec_of(tmp_path, tiny_folder, **given)), "noise-based", None)
        }

    plain = pictures()
    assert plain == pictures(eta=1.34)
    for given in ({"eta": 1.5}, {"form": "added"}, {"noise_scale": 1.02}):
        assert not plain & pictures(**given)


def test_a_run_draws_with_noise_at_the_cost_of_the_forecast(tmp_path: Path, tiny_folder: Path) -> None:
    root = tmp_path / "runs"
    plan = read_plan(run.open_journal(str(root)), finish_run(spec_of(tmp_path, tiny_folder, text=True), root))
    journal = run.open_journal(str(root))
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    pictures: dict[bool, list[Any]] = {True: [], False: []}
    for unit in plan.units_of("generate"):
        identity = unit.identity
        if isinstance(identity, GenerateIdentity) and identity.source == "prompt" and identity.model is not None:
            rows = journal.read("generate", unit.key).to_pylist()
            assert calls_of(unit).expected == sum(row["unet_calls"] for row in rows) == 3 * 2 * 4
            pictures[identity.step_noise is not None] += [row["pixel_sha256"] for row in rows]
    assert len(pictures[True]) == len(pictures[False]) == 3 and not set(pictures[True]) & set(pictures[False])


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"sampler": {**SAMPLER, "scheduler": "euler"}}, "scheduler euler has its own"),
        ({"templates": ["a ring"]}, "must contain {phrase} once"),
        ({"eta": 0}, "eta"),
        (
            {"templates": ["a photo of a very large red {phrase} on a white table in front of a wall"]},
            "text encoder reads",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_compute(
    scenario: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        drafted(spec_of(tmp_path, tiny_folder, **scenario))
    assert message in f"{caught.value} {caught.value.next_step}"
