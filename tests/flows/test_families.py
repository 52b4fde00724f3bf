"""An audit on cut-down backbones of each family, by the code that the commands run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from audit.checkpoints import apply_artefact
from audit.diffusion.pipeline import load_pipeline
from audit.erasers import resolve_parameters
from audit.erasers.produce import produce
from audit.errors import SpecError
from audit.plan.document import read_plan
from audit.plan.identities import GenerateIdentity
from audit.plan.preflight.prompts import usable_prompt_sets
from audit.plan.resolve import resolve
from audit.run import open_journal
from audit.spec.document import load_spec
from audit.spec.sections import Concept, Eraser
from audit.storage.journal import Journal
from audit.testbed.tokenizer import make_tokenizer
from audit.weights.references import resolve_model
from tests.flows.audits import WAIVED, finish_run, plan_run, spec_of_every_kind, tiny_spec
from tests.tiny_families import write_flux, write_sd2, write_sd3, write_sdxl

DEFENCE = [{"name": "esd-x", "eraser": {"method": "esd-x"}}]  # which acts on each of them
ERASING = {"iterations": 15, "batch_size": 1, "steps": 2, "pool": 2}
GUARDS = {
    "write_sd2": {"name": "irece", "parameters": {"t_star": 501, "area_max": 1.0}},
    "write_sdxl": {"name": "negative-prompt"},
}


def statuses(journal: Journal, kind: str) -> set[str]:
    return {status for key in journal.keys(kind) for status in journal.read(kind, key)["status"].to_pylist()}


def test_every_kind_of_unit_runs_on_a_transformer(tmp_path: Path) -> None:
    """Erasing by ESD, IRECE on joint attention, prompts, a learned embedding, inverted latents of both kinds."""
    backbone = write_sd3(tmp_path / "sd3", t5=False, tokenizer=make_tokenizer())
    gate = {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.3}], **WAIVED}
    spec = spec_of_every_kind(tmp_path, backbone=str(backbone), gate=gate)
    finish_run(spec, tmp_path / "root")
    journal = open_journal(str(tmp_path / "root"))
    for kind in ("erase", "attack", "invert", "generate"):
        assert "error" not in statuses(journal, kind), kind
        assert "ok" in statuses(journal, kind), kind


@pytest.mark.parametrize("write", [write_sd2, partial(write_sd3, t5=False)])
def test_an_eraser_s_lora_changes_the_weights_by_its_products(write: Callable[[Path], Path], tmp_path: Path) -> None:
    backbone = load_pipeline(resolve_model(str(write(tmp_path / "backbone"))), torch.device("cpu"))
    parameters = {**ERASING, "lora_rank": 2, "stored": "float32"}
    values = resolve_parameters(Eraser(method="esd-x", preset="testbed", parameters=parameters), backbone.ref.name)
    made = produce(backbone, "esd-x", [Concept(name="ring", phrase="ring")], values)
    assert made.artefact.layout == "lora"
    erased = apply_artefact(backbone, dict(made.artefact.tensors))
    name = next(iter(made.artefact.tensors)).removesuffix(".lora_A.weight")
    module = name.partition(".")[2]
    up, down = (made.artefact.tensors[f"{name}.lora_{half}.weight"] for half in "BA")
    before, after = (network.get_submodule(module).weight for network in (backbone.unet, erased.unet))
    assert torch.allclose(after, before + up @ down, atol=1e-6)
    assert not torch.equal(after, before)


def test_a_lora_of_trained_weights_is_refused() -> None:
    asked = Eraser(method="esd-x", preset="official", parameters={"lora_rank": 2})
    with pytest.raises(SpecError, match="a LoRA leaves the weights as they are"):
        resolve_parameters(asked, "elsewhere")


@pytest.mark.parametrize("write", [write_sd2, write_sdxl])
def test_prompts_and_inverted_latents_run_on_every_family(write: Callable[[Path], Path], tmp_path: Path) -> None:
    spec = tiny_spec(
        tmp_path,
        write(tmp_path / "backbone"),
        defences=[{"name": "guarded", "guards": [GUARDS[write.__name__]]}],
    )
    finish_run(spec, tmp_path / "root")
    journal = open_journal(str(tmp_path / "root"))
    assert statuses(journal, "generate") == {"ok", "degenerate"}  # the control of black pictures
    assert statuses(journal, "invert") == {"ok"}


def test_a_flux_backbone_takes_no_guard_of_the_null_prompt(tmp_path: Path) -> None:
    spec = tiny_spec(
        tmp_path, write_flux(tmp_path / "flux"), defences=[{"name": "tried", "guards": [{"name": "negative-prompt"}]}]
    )
    with pytest.raises(SpecError, match="guard 'negative-prompt' cannot act on a Flux backbone"):
        plan_run(spec, tmp_path / "root")


@pytest.mark.parametrize(("write", "side", "odd"), [(partial(write_sd3, t5=False), 16, 18), (write_flux, 256, 254)])
def test_prompt_rows_of_a_transformer_may_have_sizes(
    write: Callable[[Path], Path], side: int, odd: int, tmp_path: Path
) -> None:
    """Sides are multiples of a patch, in pixels."""
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,w,h\na ring,{side},{side}\na ring,{side + 4},{side}\na ring,{odd},{side}\n")
    prompts = {"file": str(path), "columns": {"prompt": "prompt", "width": "w", "height": "h"}}
    scenario = {"name": "text", "cases": 3, "prompts": prompts, "sampler": {"steps": 2, "guidance": 3.0}}
    spec = load_spec(tiny_spec(tmp_path, write(tmp_path / "backbone"), scenarios=[scenario]))
    problems = [str(row.problem or "") for row in usable_prompt_sets(resolve(spec))["text"].rows]
    assert problems[:2] == ["", ""] and "sides are multiples of 4" in problems[2]


@pytest.mark.slow
def test_irece_runs_on_flux(tmp_path: Path) -> None:
    spec = tiny_spec(
        tmp_path,
        write_flux(tmp_path / "flux"),
        defences=[{"name": "guarded", "guards": [{"name": "irece"}]}],
        scenarios=[{"name": "text", "cases": 1, "sampler": {"steps": 2, "guidance": 3.0}}],
        controls={"cases": 1, "vae_roundtrip": False, "random_latent": False},
    )
    finish_run(spec, tmp_path / "root")
    journal = open_journal(str(tmp_path / "root"))
    assert statuses(journal, "generate") == {"ok", "degenerate"}  # the control of black pictures


@pytest.mark.parametrize(
    ("write", "defence", "message"),
    [
        (
            partial(write_sd3, t5=False),
            {"eraser": {"method": "rece"}},
            "eraser 'rece' cannot act on a Stable Diffusion 3.x backbone",
        ),
        (
            partial(write_sd3, t5=False),
            {"guards": [{"name": "safree"}]},
            "guard 'safree' cannot act on a Stable Diffusion 3.x backbone",
        ),
        (write_sdxl, {"eraser": {"method": "advunlearn"}}, "eraser 'advunlearn' cannot act on a SDXL backbone"),
    ],
)
def test_methods_that_cannot_act_on_a_family_are_refused_at_plan_time(
    write: Callable[[Path], Path], defence: dict[str, object], message: str, tmp_path: Path
) -> None:
    spec = tiny_spec(tmp_path, write(tmp_path / "backbone"), defences=[{"name": "tried", **defence}])
    with pytest.raises(SpecError, match=message):
        plan_run(spec, tmp_path / "root")


@pytest.mark.parametrize(
    ("write", "scenario", "message"),
    [
        (
            partial(write_sd3, t5=False),
            {"name": "text", "cases": 1, "sampler": {"steps": 2, "guidance": 3.0, "scheduler": "euler"}},
            "scheduler euler solves a diffusion, and this backbone is a flow",
        ),
        (
            partial(write_sd3, t5=False),
            {"name": "latent-whitebox", "cases": 1, "method": "o-belm", "sampler": {"steps": 2, "guidance": 1.0}},
            "the exact sampler o-belm steps with predicted noise, and this backbone predicts flow",
        ),
        (
            write_sd2,
            {"name": "latent-whitebox", "cases": 1, "method": "bdia", "sampler": {"steps": 2, "guidance": 1.0}},
            "the exact sampler bdia steps with predicted noise, and this backbone predicts v",
        ),
    ],
)
def test_samplers_that_a_network_cannot_be_solved_by_are_refused_at_plan_time(
    write: Callable[[Path], Path], scenario: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message):
        plan_run(
            tiny_spec(tmp_path, write(tmp_path / "backbone"), defences=DEFENCE, scenarios=[scenario]), tmp_path / "root"
        )


@pytest.mark.slow
def test_every_guard_of_a_transformer_acts_in_a_run(tmp_path: Path) -> None:
    """EGLOCE, safe latent diffusion and the negative prompt; IRECE runs above."""
    egloce = {"energy": "testbed/energy", "gradient": "full", "iterations": 1, "window": [1000, 0]}
    guards = [
        {"name": "egloce", "parameters": egloce},
        {"name": "sld", "parameters": {"warmup_steps": 1}},
        {"name": "negative-prompt"},
    ]
    spec = tiny_spec(
        tmp_path,
        write_sd3(tmp_path / "sd3", t5=False),
        defences=[{"name": str(guard["name"]), "guards": [guard]} for guard in guards],
        scenarios=[{"name": "text", "cases": 2, "sampler": {"steps": 4, "guidance": 3.0}}],
        controls={"cases": 1, "vae_roundtrip": False, "random_latent": False},
    )
    run_id = finish_run(spec, tmp_path / "root")
    journal = open_journal(str(tmp_path / "root"))
    plan = read_plan(journal, run_id)
    acted = set()
    for unit in plan.units_of("generate"):
        assert isinstance(unit.identity, GenerateIdentity)
        names = [guard.name for guard in unit.identity.guards]
        for row in journal.read("generate", unit.key).to_pylist():
            reports = json.loads(row["guard_report"] or "[]")
            assert [report["guard"] for report in reports] == names
            acted |= {report["guard"] for report in reports if report["acted"]}
    assert acted == {"egloce", "sld", "negative-prompt"}
