"""Samplers of production against diffusers' own pipelines on the same latents: the shipped testbed's, and each family's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from audit.diffusion.guard import Conditioning, Guard, Predict, Step
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import Sampled, initial_noise, sample
from audit.diffusion.schedulers import DiffusersSolver
from audit.plan.samplers import timesteps
from audit.spec.sampler import AS_PIPELINE, Sampler
from audit.weights.references import resolve_model
from audit.weights.schedulers import Chosen, choose, own_scheduler
from audit.weights.testbed import weights_path
from tests.guards.making import make
from tests.tiny import SD14_SCHEDULER, write_pipeline
from tests.tiny_families import write_sd2, write_sdxl

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
LEVELS = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


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
    solver = DiffusersSolver(chosen, steps, seeds, ours.latent_shape, ours.kind)
    return sample(noise_model(ours.unet), solver, initial_noise(seeds, ours.latent_shape), given(ours, rows), guards)


def pixels(ours: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    return (ours.decode_latents(latents) + 1) * 127.5


def require_equal(ours: Pipeline, theirs: DiffusionPipeline, chosen: Chosen, scheduler: Any, steps: int) -> None:
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


def require_own(folder: Path, named: str, steps: int) -> None:
    """Require that `as-pipeline` samples a folder as diffusers does by the scheduler in it, and that a plan counts its steps."""
    own = load_pipeline(resolve_model(str(folder)), torch.device("cpu"), samplers=(AS_PIPELINE,))
    pipe = opened(folder)
    assert type(pipe.scheduler).__name__ == named
    require_equal(own, pipe, choose(own_scheduler(folder), AS_PIPELINE), pipe.scheduler, steps)
    grid = timesteps(Sampler(scheduler=AS_PIPELINE, steps=steps), own_scheduler(folder))
    assert grid == tuple(round(float(time)) for time in pipe.scheduler.timesteps)


def opened(folder: Path) -> DiffusionPipeline:
    """Return the folder's pipeline as diffusers loads it."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("name", "steps"), [(name, 4) for name in THEIRS] + [("euler", 3), ("unipc", 7)])
def test_each_scheduler_makes_the_pictures_of_diffusers_own_pipeline(
    name: str, steps: int, ours: Pipeline, theirs: StableDiffusionPipeline
) -> None:
    """The same seeds in the same batch: initial noise and every later draw come from one generator for each picture."""
    written = own_scheduler(weights_path("pipeline"))
    named, changes = THEIRS[name]
    scheduler = getattr(diffusers, named).from_config(written, **changes)
    require_equal(ours, theirs, choose(written, name), scheduler, steps)
    if name != "ddim":
        assert len(timesteps(Sampler(scheduler=name, steps=steps), written)) == len(scheduler.timesteps)


OWN: list[tuple[str, dict[str, Any], int]] = [  # class, settings in the folder, steps
    ("PNDMScheduler", {"skip_prk_steps": False}, 5),
    ("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}, 3),
    ("LMSDiscreteScheduler", {}, 4),
    ("DEISMultistepScheduler", {}, 4),
    ("DDPMScheduler", {"clip_sample": False}, 4),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, 3),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "timestep_spacing": "trailing"}, 4),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"}, 4),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, 4),
    ("UniPCMultistepScheduler", {"use_beta_sigmas": True}, 4),
    ("LCMScheduler", {"original_inference_steps": 40}, 3),
]


def with_scheduler(folder: Path, named: str, settings: dict[str, Any]) -> Path:
    index, config = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", named]}))
    plain = {**SD14_SCHEDULER, "_class_name": named, "trained_betas": None, **settings}
    config.write_text(json.dumps(plain))
    return folder


@pytest.mark.parametrize(
    ("named", "settings", "steps"), OWN, ids=[f"{named}-{n}" for n, (named, _, _) in enumerate(OWN)]
)
def test_a_folders_own_scheduler_is_honoured_as_its_class_reads_it(
    named: str, settings: dict[str, Any], steps: int, tiny_copy: Path
) -> None:
    """Which a folder is not for DDIM, unless its settings change nothing there."""
    require_own(with_scheduler(tiny_copy, named, settings), named, steps)


WRITERS = {"sd1": write_pipeline, "sd2": write_sd2, "sdxl": write_sdxl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: write(root / family) for family, write in WRITERS.items()}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, tuple[Pipeline, DiffusionPipeline]]:
    """Cut-down Stable Diffusion 2.x, which predicts v, and SDXL, as the audit loads them and as diffusers does."""
    return {
        family: (load_pipeline(resolve_model(str(folders[family])), torch.device("cpu")), opened(folders[family]))
        for family in ("sd2", "sdxl")
    }


@pytest.mark.parametrize("name", [name for name in THEIRS if name != "ddim"])  # which test_families.py compares
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_each_scheduler_makes_the_pictures_of_every_family_s_own_pipeline(
    family: str, name: str, loaded: dict[str, tuple[Pipeline, DiffusionPipeline]]
) -> None:
    own, pipe = loaded[family]
    assert (own.family, own.kind) == (family, "v_prediction" if family == "sd2" else "epsilon")
    written = own_scheduler(own.ref.path)
    named, changes = THEIRS[name]
    require_equal(own, pipe, choose(written, name), getattr(diffusers, named).from_config(written, **changes), 4)


@pytest.mark.filterwarnings(
    "ignore:The configuration file of this scheduler:FutureWarning"
)  # of StableDiffusionPipeline
@pytest.mark.parametrize("named", ["EulerDiscreteScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("family", WRITERS)
def test_a_grid_without_an_offset_is_moved_where_the_family_s_own_pipeline_moves_it(
    family: str, named: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """StableDiffusionPipeline moves the grid by one and leaves predictions unclipped; StableDiffusionXLPipeline does neither."""
    settings: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 0, "skip_prk_steps": None}
    if named == "DDIMScheduler":
        settings["clip_sample"] = True
    if family == "sd2":
        settings["prediction_type"] = "v_prediction"
    folder = with_scheduler(Path(shutil.copytree(folders[family], tmp_path / family)), named, settings)
    require_own(folder, named, 4)
    written = own_scheduler(folder)
    last = 0 if family == "sdxl" else 1
    assert timesteps(Sampler(scheduler=AS_PIPELINE, steps=4), written)[-1] == last
    assert timesteps(Sampler(scheduler="euler", steps=4), written)[-1] == last


@pytest.mark.parametrize("name", ["euler-ancestral", "lcm", "dpm++2m", "unipc"])
def test_a_picture_does_not_depend_on_its_batch(name: str, tiny: Pipeline) -> None:
    chosen = choose(own_scheduler(tiny.ref.path), name)
    together = sampled(tiny, chosen, 3)
    for row in (0, 1):
        torch.testing.assert_close(
            sampled(tiny, chosen, 3, [row]).latents[0], together.latents[row], rtol=1e-4, atol=1e-4
        )
    swapped = sampled(tiny, chosen, 3, [1, 0]).latents
    torch.testing.assert_close(swapped.flip(0), together.latents, rtol=1e-4, atol=1e-4)


def test_a_negative_prompt_is_the_pipelines_own_on_every_scheduler(
    ours: Pipeline, theirs: StableDiffusionPipeline
) -> None:
    written = own_scheduler(weights_path("pipeline"))
    for name in ("euler-ancestral", "pndm"):
        named, changes = THEIRS[name]
        theirs.scheduler = getattr(diffusers, named).from_config(written, **changes)
        made = theirs(
            list(PROMPTS),
            negative_prompt=["ring"] * 2,
            num_inference_steps=3,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="latent",
        ).images
        mine = sampled(ours, choose(written, name), 3, guards=[make(ours, "negative-prompt")])
        torch.testing.assert_close(mine.latents, made, rtol=1e-4, atol=1e-4)
        every = tuple(dict.fromkeys(round(float(t)) for t in theirs.scheduler.timesteps))
        assert [reports[0].timesteps for reports in mine.reports] == [every] * 2


class Jump(Guard):
    """Puts its own latents in place of those before one step, and keeps what it saw."""

    name = "jump"

    def __init__(self, at: int, latents: torch.Tensor) -> None:
        self.at, self.latents, self.seen = at, latents, list[tuple[Step, torch.Tensor]]()

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        self.seen.append((step, latents))
        return self.latents if step.index == self.at else latents


def plain_euler(tiny: Pipeline, jump: Jump, steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Euler's method in sigmas, written out, with the same jump in variance-preserving latents; and what a guard sees."""
    scheduler = diffusers.EulerDiscreteScheduler.from_config(own_scheduler(tiny.ref.path))
    scheduler.set_timesteps(steps)
    sigmas, model, texts = scheduler.sigmas.double(), noise_model(tiny.unet), given(tiny)
    visible = initial_noise(SEEDS, tiny.latent_shape).double()
    x, seen = visible * (1 + sigmas[0] ** 2).sqrt(), []
    for i in range(steps):
        scale = (1 + sigmas[i] ** 2).sqrt()
        seen.append(x / scale)
        x = jump.latents.double() * scale if i == jump.at else x
        with torch.no_grad():
            null, prompt = (
                model((x / scale).float(), scheduler.timesteps[i], states).double()
                for states in (texts.null, texts.prompt)
            )
        x = x + (sigmas[i + 1] - sigmas[i]) * (null + GUIDANCE * (prompt - null))
    return x, seen


def test_guards_see_and_change_variance_preserving_latents_on_euler(tiny: Pipeline) -> None:
    jump = Jump(1, initial_noise([8, 9], tiny.latent_shape))
    chosen = choose(own_scheduler(tiny.ref.path), "euler")
    mine = sampled(tiny, chosen, 3, guards=[jump])
    expected, seen = plain_euler(tiny, jump, 3)
    torch.testing.assert_close(mine.latents.double(), expected, rtol=1e-3, atol=1e-3)
    for (step, latents), before in zip(jump.seen, seen, strict=True):
        torch.testing.assert_close(latents.double(), before, rtol=1e-3, atol=1e-3)
        assert step.level.signal**2 == pytest.approx(float(LEVELS[step.timestep]), rel=1e-2)


@pytest.mark.parametrize("name", ["dpm++2m", "dpm++2m-karras", "pndm", "unipc"])
def test_latents_do_not_change_between_steps_that_build_on_each_other(name: str, tiny: Pipeline) -> None:
    chosen = choose(own_scheduler(tiny.ref.path), name)
    with pytest.raises(ValueError, match="predictions before that change"):
        sampled(tiny, chosen, 3, [0], guards=[Jump(1, initial_noise([8], tiny.latent_shape))])


@pytest.mark.parametrize("guard", ["sld", "irece"])
def test_guards_act_alike_on_euler_and_on_the_same_steps_of_ddim(guard: str, ours: Pipeline) -> None:
    """Euler's step in sigmas is DDIM's: with the same levels, guarded pictures are the same but for rounding."""
    written = {**own_scheduler(weights_path("pipeline")), "set_alpha_to_one": True}
    steps, parameters = (
        4,
        {"warmup_steps": 0, "threshold": 1.0} if guard == "sld" else {"t_star": 501, "noise": "level"},
    )
    made = {
        name: sampled(ours, choose(written, name), steps, guards=[make(ours, guard, **parameters)])
        for name in ("euler", "ddim")
    }
    torch.testing.assert_close(made["euler"].latents, made["ddim"].latents, rtol=1e-2, atol=1e-2)
    acted = [report[0].timesteps for report in made["euler"].reports]
    assert acted == [report[0].timesteps for report in made["ddim"].reports] and all(acted)
    bare = sampled(ours, choose(written, "euler"), steps).latents
    assert (bare - made["euler"].latents).abs().max() > 0.1
