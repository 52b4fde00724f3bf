"""Samplers before a run: what each costs and is stored as, and those that are refused with what to do instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from audit.diffusion.pipeline import load_pipeline
from audit.errors import CheckpointError, SpecError
from audit.identity import key
from audit.plan.identities import GenerateIdentity, PictureSampler, as_json, from_json
from audit.plan.preflight.guards import check_guards
from audit.plan.preflight.samplers import check_samplers
from audit.plan.samplers import samplers_of, schedulers_of, timesteps
from audit.spec.document import Spec, parse_spec
from audit.spec.sampler import Sampler
from audit.weights.references import pipeline_family, resolve_model
from audit.weights.schedulers import PUBLISHED, own_scheduler
from tests.plan.resolved import resolved_of
from tests.tiny_families import write_flux, write_sd3

LATENT = {"name": "latent-blackbox", "cases": 2, "sampler": {"steps": 10, "guidance": 1.0}}


def spec_of(backbone: Path | str, guard: str | None = None, *further: Any, **sampler: Any) -> Spec:
    guarded = (
        [{"name": "guarded", "guards": [{"name": guard}]}] if guard else [{"name": "uce", "eraser": {"method": "uce"}}]
    )
    document = {
        "name": "samplers",
        "backbone": str(backbone),
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "corpus": [{"url": "x", "concept": "ring"}],
        "defences": [{"name": "none"}, *guarded],
        "scenarios": [{"name": "text", "cases": 16, "sampler": {"steps": 10, "guidance": 5.0, **sampler}}, *further],
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.5}]},
    }
    return parse_spec(document, "test")


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flows")
    return {"sd3": write_sd3(folder / "sd3", t5=False), "flux": write_flux(folder / "flux")}


def refusal(spec: Spec) -> SpecError:
    ref = resolve_model(spec.backbone)
    with pytest.raises(SpecError) as caught:
        check_samplers(resolved_of(spec, ref), ref)
    assert caught.value.where and caught.value.next_step
    return caught.value


@pytest.mark.parametrize(
    ("scheduler", "steps", "evaluations"),
    [("ddim", 50, 50), ("euler", 30, 30), ("pndm", 30, 31), ("dpm++2m-karras", 30, 30), ("unipc", 7, 7), ("lcm", 4, 4)],
)
def test_a_plan_counts_the_evaluations_of_each_scheduler(scheduler: Any, steps: int, evaluations: int) -> None:
    grid = timesteps(Sampler(scheduler=scheduler, steps=steps), PUBLISHED)
    assert len(grid) == evaluations and list(grid) == sorted(grid, reverse=True)


def test_pndm_without_skipping_costs_twelve_more_evaluations_for_its_first_three_steps() -> None:
    own = {**PUBLISHED, "skip_prk_steps": False}
    assert len(timesteps(Sampler(scheduler="as-pipeline", steps=10), own)) == 12 + 10 - 3


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 1.0, "use_dynamic_shifting": False},
        {"shift": 3.0, "use_dynamic_shifting": False},
        {"shift": 3.0, "use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 2.0, "max_image_seq_len": 9000},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ],
    ids=["unshifted", "shifted", "by size", "by size as told", "by size, linear"],
)
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_plan_knows_a_flows_timesteps_without_its_class(
    family: str, changes: dict[str, Any], steps: int, flows: dict[str, Path], tmp_path: Path
) -> None:
    """FlowMatchEulerDiscreteScheduler's own, as the pipeline of each family sets them: Flux falls evenly to 1 / steps."""
    folder = with_settings(shutil.copytree(flows[family], tmp_path / family), **changes)
    grid = timesteps(Sampler(steps=steps), own_scheduler(folder))
    assert grid == pytest.approx(flows_own(folder, steps), abs=2e-3)


def flows_own(folder: Path, steps: int) -> list[float]:
    """The timesteps of diffusers' class, told what diffusers' pipelines of these folders would."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    network = json.loads((folder / "transformer" / "config.json").read_text())
    told: dict[str, Any] = {"num_inference_steps": steps}
    tokens = (128 // 2) ** 2
    if "FluxTransformer2DModel" in network["_class_name"]:
        told = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    else:
        tokens = (network["sample_size"] // network["patch_size"]) ** 2
    if scheduler.config.use_dynamic_shifting:
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        told["mu"] = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    scheduler.set_timesteps(**told)
    times: list[float] = scheduler.timesteps.tolist()
    return times


def test_a_plan_knows_the_timesteps_that_a_flow_is_sampled_at(flows: dict[str, Path]) -> None:
    for folder in flows.values():
        schedule = load_pipeline(resolve_model(str(folder)), torch.device("cpu")).schedule(4)
        assert timesteps(Sampler(steps=4), own_scheduler(folder)) == pytest.approx(schedule.timesteps[::-1], abs=2e-3)


def test_only_another_scheduler_than_ddim_is_part_of_a_pictures_identity() -> None:
    def identity(**sampler: Any) -> GenerateIdentity:
        return GenerateIdentity("prompt", "b" * 64, None, (), PictureSampler(steps=10, **sampler), "code")

    plain, euler = as_json(identity()), as_json(identity(scheduler="euler"))
    assert plain["sampler"] == {"steps": 10, "guidance": 7.5, "dtype": "float32"}
    assert euler["sampler"] == {**plain["sampler"], "scheduler": "euler"}
    assert key(plain) != key(euler)
    for stored in (plain, euler, as_json(identity(scheduler="lcm"))):
        assert as_json(from_json("generate", json.loads(json.dumps(stored)))) == stored


def test_benign_prompts_are_sampled_like_the_first_text_scenario() -> None:
    spec = spec_of("testbed", None, LATENT, scheduler="unipc", steps=7)
    assert samplers_of(spec)["benign"].scheduler == "unipc"
    assert schedulers_of(spec) == {"ddim", "unipc"}


@pytest.mark.parametrize("guard", ["irece", "egloce"])
@pytest.mark.parametrize(
    ("scheduler", "acts"), [("euler", True), ("euler-ancestral", True), ("pndm", False), ("unipc", False)]
)
def test_a_guard_that_changes_latents_needs_a_scheduler_without_memory(scheduler: str, acts: bool, guard: str) -> None:
    spec = spec_of("testbed", guard, scheduler=scheduler)
    if acts:
        ref = resolve_model("testbed")
        check_samplers(resolved_of(spec, ref), ref)
        return
    error = refusal(spec)
    assert f"guard {guard} of defence 'guarded' changes latents between steps, and scheduler {scheduler}" in error.what
    assert error.where == "scenarios.text.sampler.scheduler" and "use ddim, euler" in str(error.next_step)


def test_guards_that_act_on_predictions_act_on_every_scheduler() -> None:
    ref = resolve_model("testbed")
    for guard in ("negative-prompt", "sld", "safree"):
        spec = spec_of("testbed", guard, scheduler="dpm++2m", steps=12)
        check_samplers(resolved_of(spec, ref), ref)
        check_guards(resolved_of(spec, ref), ref)


def test_lcm_needs_a_distilled_model() -> None:
    error = refusal(spec_of("testbed", scheduler="lcm", steps=4))
    assert "samples consistency models" in error.what and "distilled to true" in str(error.next_step)
    ref = resolve_model("testbed")
    check_samplers(resolved_of(spec_of("testbed", scheduler="lcm", steps=4, distilled=True), ref), ref)
    with pytest.raises(SpecError, match="distilled belongs to scheduler lcm, and this is ddim"):
        spec_of("testbed", distilled=True)


def test_steps_that_a_class_cannot_take_are_refused() -> None:
    error = refusal(spec_of("testbed", scheduler="lcm", steps=60, distilled=True))
    assert "LCMScheduler cannot take 60 steps" in error.what and error.where == "scenarios.text.sampler"


def test_inverted_latents_keep_a_sampler_that_inverts() -> None:
    latent = {**LATENT, "sampler": {"steps": 10, "guidance": 1.0, "scheduler": "euler"}}
    with pytest.raises(
        SpecError, match=r"scheduler euler does not: leave sampler\.scheduler at ddim, or let method be bdia"
    ):
        spec_of("testbed", None, latent)


def with_settings(folder: Path, named: str | None = None, **changes: Any) -> Path:
    index, config = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    if named is not None:
        index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", named]}))
        changes["_class_name"] = named
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return folder


def test_a_folder_that_ddim_would_misread_is_taken_where_every_sampler_honours_it(tiny_copy: Path) -> None:
    ref = resolve_model(str(with_settings(tiny_copy, "EulerDiscreteScheduler", timestep_spacing="trailing")))
    for samplers in (("ddim",), ("ddim", "as-pipeline")):
        with pytest.raises(CheckpointError, match="timestep_spacing 'trailing'") as caught:
            pipeline_family(ref, samplers)
        assert "sampler.scheduler as-pipeline" in str(caught.value.next_step)
    for samplers in (("euler",), ("as-pipeline",), ("unipc", "as-pipeline")):
        assert pipeline_family(ref, samplers) == "sd1"
    karras = resolve_model(str(with_settings(tiny_copy, use_karras_sigmas=True)))
    assert pipeline_family(karras, ("as-pipeline",)) == "sd1"
    with pytest.raises(CheckpointError, match="use_karras_sigmas True"):
        pipeline_family(karras, ("as-pipeline", "euler"))


@pytest.mark.parametrize(
    ("named", "changes", "message"),
    [
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            "cannot take its settings: Only one",
        ),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "never"}, "cannot take 10 steps"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "magic"},
            "cannot take its settings: magic is not implemented",
        ),
        ("UniPCMultistepScheduler", {"solver_order": "two"}, "cannot take its settings"),
        ("PNDMScheduler", {"timestep_spacing": "sideways"}, "cannot take 10 steps: sideways is not supported"),
    ],
)
def test_settings_that_a_folders_class_cannot_take_are_refused(
    named: str, changes: dict[str, Any], message: str, tiny_copy: Path
) -> None:
    with_settings(tiny_copy, named, **changes)
    assert pipeline_family(resolve_model(str(tiny_copy)), ("as-pipeline",)) == "sd1"
    error = refusal(spec_of(tiny_copy, scheduler="as-pipeline"))
    assert f"the scheduler {named} {message}" in error.what
    assert error.where == "scenarios.text.sampler"
    assert own_scheduler(tiny_copy)["_class_name"] == named
