"""Probes from pictures: planned with their controls, sampled as diffusers' own pipelines do, and counted to the end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)

from audit import run
from audit.compute.models import Models
from audit.compute.stages.generate import run_generate
from audit.compute.stages.pictured import Pictured
from audit.corpus.images import ImageError
from audit.diffusion.completion import Known, known_region
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.errors import SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.plan.document import KINDS, Draft, Plan, read_plan
from audit.plan.forecast import calls_of
from audit.plan.identities import FromPicture, GenerateIdentity, Unit
from audit.records import Control
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.weights.references import resolve_model
from tests.flows.audits import finish_run, tiny_spec
from tests.synthetic import case, unit
from tests.tiny_families import write_sd3

PROMPTS, SEEDS = ["a ring", "no moon"], (3, 4)
SAMPLER = {"steps": 4, "guidance": 3.0}


def conditioning(backbone: Pipeline) -> Conditioning:
    states, null = backbone.encode_text(PROMPTS), backbone.encode_text([""] * 2)
    return Conditioning(states, null, 3.0, tuple(PROMPTS), SEEDS)


def pipeline_of(folder: Path, of_unet: Any, of_transformer: Any) -> Any:
    """Diffusers' own pipeline of a folder: of a UNet sampled by DDIM, of a transformer by its flow's scheduler."""
    if (folder / "transformer").is_dir():
        pipe = of_transformer.from_pretrained(folder)
    else:
        pipe = of_unet.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, clean: torch.Tensor, strength: float) -> torch.Tensor:
    return pipe(
        prompt=PROMPTS,
        image=clean,  # latents of the VAE's channels are taken as they are
        strength=strength,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_img2img_is_that_of_diffusers(family: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_folder if family == "sd1" else write_sd3(tmp_path / "sd3")
    backbone = load_pipeline(resolve_model(str(folder)), torch.device("cpu"))
    clean = initial_noise([7, 8], backbone.latent_shape) / 2
    schedule = backbone.schedule(10).last(6)
    start = Pictured(clean, initial_noise(SEEDS, backbone.latent_shape)).start(schedule)
    ours = sample(noise_model(backbone.unet), schedule, start, conditioning(backbone))
    pipe = pipeline_of(folder, StableDiffusionImg2ImgPipeline, StableDiffusion3Img2ImgPipeline)
    assert ours.unet_calls == 2 * 6
    assert torch.allclose(ours.latents, theirs(pipe, clean, 0.6), atol=1e-4)


@pytest.mark.parametrize("known", ["half", "centre"])
@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_completion_is_that_of_diffusers(family: str, known: Known, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_folder if family == "sd1" else write_sd3(tmp_path / "sd3")
    backbone = load_pipeline(resolve_model(str(folder)), torch.device("cpu"))
    shape = backbone.latent_shape
    given = Pictured(initial_noise([7, 8], shape) / 2, initial_noise(SEEDS, shape))
    solver = given.completed_by(backbone.schedule(10), known, torch.device("cpu"))
    ours = sample(noise_model(backbone.unet), solver, given.noise, conditioning(backbone)).latents
    pipe = pipeline_of(folder, StableDiffusionInpaintPipeline, StableDiffusion3InpaintPipeline)
    side = backbone.resolution // shape[1]
    unknown = (~known_region(known, *shape[1:])).float()
    theirs = pipe(
        prompt=PROMPTS,
        image=given.clean,
        mask_image=unknown.repeat_interleave(side, 2).repeat_interleave(side, 3).repeat(2, 1, 1, 1),
        masked_image_latents=given.clean,
        strength=1.0,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert torch.equal(ours[..., unknown[0, 0] == 0], given.clean[..., unknown[0, 0] == 0])
    assert 0.2 < float(unknown.mean()) < 0.8


def spec_of(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    star, ring = folder / "corpus" / "star", folder / "corpus" / "ring"
    if not star.exists():
        write_corpus(str(star), "star", 3, "audit")
    corpus = [{"url": str(ring), "concept": "ring"}, {"url": str(star), "concept": "star", "role": "control"}]
    given = {"name": "img2img", "cases": 3, "strength": 0.5, "sampler": SAMPLER, **scenario}
    completed = {"name": "completion", "cases": 3, "known": "centre", "sampler": SAMPLER}
    controls = {"cases": 2, "unlearned": ["star"]}
    labels = {"ring": ["FACE_FEMALE"], "star": ["FACE_FEMALE"]}
    detectors = [{"name": "nude", "kind": "nudenet", "labels": labels}]
    return tiny_spec(
        folder, pipeline, corpus=corpus, scenarios=[given, completed], controls=controls, detectors=detectors
    )


def drafted(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, Path]:
    folder = tmp_path_factory.mktemp("probes")
    run_id = finish_run(spec_of(folder, tiny_folder), folder / "runs")
    journal = run.open_journal(str(folder / "runs"))
    return read_plan(journal, run_id), journal, folder / "runs"


def rows_of(plan: Draft, control: Control | None, subject: str = "ring") -> list[dict[str, Any]]:
    wanted = {
        planned.cell.cell_id
        for planned in plan.cells
        if (planned.cell.control, planned.cell.subject, planned.cell.scenario) == (control, subject, "img2img")
        and planned.cell.defence == "uce"
    }
    return [row for row in plan.cases.to_pylist() if row["cell_id"] in wanted]


def test_the_control_has_the_probes_prompt_and_seeds_and_other_pictures(
    finished: tuple[Plan, Journal, Path],
) -> None:
    plan, _, _ = finished
    own, other = rows_of(plan, None), rows_of(plan, Control.OTHER_PICTURES)
    unlearned = rows_of(plan, Control.UNLEARNED, "star")
    assert (len(own), len(other), len(unlearned)) == (3, 2, 2)
    assert [(row["seed"], row["prompt"]) for row in own[:2]] == [(row["seed"], row["prompt"]) for row in other]
    assert {row["item"] for row in other} == {row["item"] for row in unlearned}
    assert not {row["item"] for row in own} & {row["item"] for row in other}
    assert {row["prompt"] for row in unlearned} == {"a photo of a star"}


def test_what_is_denoised_is_what_the_forecast_says(finished: tuple[Plan, Journal, Path]) -> None:
    plan, journal, _ = finished
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    for probe, steps in ((FromPicture(2), 2), (FromPicture(4, "centre"), 4)):
        probed = [u for u in plan.units_of("generate") if getattr(u.identity, "picture", None) == probe]
        assert sum(u.rows for u in probed) == 2 * (3 + 2 + 2)
        check_calls(probed, journal, steps)


def check_calls(probed: Sequence[Unit], journal: Journal, steps: int) -> None:
    for one in probed:
        rows = journal.read("generate", one.key).to_pylist()
        assert {row["status"] for row in rows} <= {"ok", "degenerate"}
        assert calls_of(one).expected == sum(row["unet_calls"] for row in rows) == one.rows * 2 * steps


def test_the_report_has_the_controls_beside_the_probe(finished: tuple[Plan, Journal, Path]) -> None:
    plan, _, root = finished
    published = latest(root / "db" / "published")
    assert published is not None
    result = read_result(published, plan.run_id)
    kinds = {(row.kind, row.control, row.defence) for row in result.crr if row.scenario == "img2img"}
    controls = (Control.OTHER_PICTURES.value, Control.UNLEARNED.value)
    assert kinds == {
        ("img2img", control, defence)
        for defence, audited in (("uce", None), ("none", Control.BACKBONE.value))
        for control in (audited, *controls)
    }


def test_a_picture_that_cannot_be_read_costs_its_case_alone(
    finished: tuple[Plan, Journal, Path], tiny_folder: Path
) -> None:
    _, journal, _ = finished
    models = Models(resolve_model(str(tiny_folder)), journal, torch.device("cpu"))
    described = unit("generate", source="picture", picture={"steps": 1}).identity
    assert isinstance(described, GenerateIdentity)

    def read(item: str) -> Any:
        if item == "bad":
            raise ImageError("it is torn")
        return torch.full((16, 16, 3), 90, dtype=torch.uint8).numpy()

    cases = [case(0, item="bad", prompt=""), case(1, item="good", prompt="")]
    table, _ = run_generate(described, cases, models, journal, read, 2)
    bad, good = table.to_pylist()
    assert (bad["status"], bad["error"]) == ("unreadable", "the picture cannot be used: it is torn")
    assert (good["status"], good["error"], good["unet_calls"]) == ("ok", None, 1)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"prompt": None}, "the null prompt has nothing to guide to"),
        ({"prompt": "a ring"}, "must contain {phrase} once"),
        ({"strength": 0.1}, "strength 0.1 of 4 steps denoises none of them"),
        ({"sampler": {**SAMPLER, "scheduler": "euler"}}, "scheduler euler has another"),
        ({"other": "moon"}, "starts from images of 'moon', to compare 'ring' with"),
        ({"other": "ring"}, "starts from images of 'ring', to compare 'ring' with"),
    ],
)
def test_what_cannot_start_is_refused_before_compute(
    scenario: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        drafted(spec_of(tmp_path, tiny_folder, **scenario))
    assert message in str(caught.value)


def test_pictures_that_the_corpus_lacks_are_missing_from_the_plan(tmp_path: Path, tiny_folder: Path) -> None:
    (missing,) = draft_plan(load_spec(spec_of(tmp_path, tiny_folder, cases=4)), dt.datetime.now(dt.UTC)).missing
    assert "asks for 4 images of 'ring' and the corpus has 3" in missing.what


def test_another_strength_makes_other_pictures_and_the_same_one_none(tmp_path: Path, tiny_folder: Path) -> None:
    def pictures(**scenario: Any) -> set[int]:
        return {row["image_id"] for row in rows_of(drafted(spec_of(tmp_path, tiny_folder, **scenario)), None)}

    assert pictures(strength=0.5) == pictures(strength=0.6)  # two of four steps both
    assert not pictures(strength=0.5) & pictures(strength=0.75)
