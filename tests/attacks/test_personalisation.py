"""Personalisations as attack inputs: what a LoRA or DreamBooth adds, on top of every kind of defence, from plan to picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from audit import guards, run
from audit.checkpoints.apply import apply_artefact, with_changes
from audit.compute.models import Models
from audit.compute.personalised import with_personalisation
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.errors import CheckpointError, SpecError
from audit.guards.irece import Irece
from audit.plan.document import KINDS, Plan, read_plan
from audit.plan.forecast import calls_of
from audit.plan.personalisations import Personalisation
from audit.records import ResolvedGuard
from audit.spec.sections import Guard
from audit.storage.journal import Journal
from tests.attacks import loras
from tests.attacks.loras import State
from tests.attacks.personalised import change_of, draft, planned, scenario, spec_with, written
from tests.checkpoints import files
from tests.flows.audits import finish_run, tiny_spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, unet: State) -> tuple[Plan, Journal]:
    folder = tmp_path_factory.mktemp("personal")
    path = loras.write_lora(folder / "lora.safetensors", unet)
    run_id = finish_run(spec_with(folder, tiny_folder, path, templates=["a photo of a {phrase}"]), folder / "runs")
    journal = run.open_journal(str(folder / "runs"))
    return read_plan(journal, run_id), journal


def pictures(plan: Plan, journal: Journal, scenario: str, defence: str) -> list[str]:
    cell = next(c.cell.cell_id for c in plan.cells if (c.cell.scenario, c.cell.defence) == (scenario, defence))
    found = []
    for case in (row for row in plan.cases.to_pylist() if row["cell_id"] == cell):
        rows = {row["image_id"]: row for row in journal.read("generate", case["unit_key"]).to_pylist()}
        assert rows[case["image_id"]]["status"] == "ok"
        found.append(rows[case["image_id"]]["pixel_sha256"])
    return found


def test_the_same_prompt_and_seed_give_other_pictures_with_it_on_the_defence_and_on_the_backbone(
    finished: tuple[Plan, Journal],
) -> None:
    plan, journal = finished
    (unit,) = plan.units_of("attack")
    assert unit.identity.model is None and calls_of(unit).high == 0
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    made = {
        (box, defence): pictures(plan, journal, box, defence)
        for box in ("text", "embedding-blackbox")
        for defence in ("none", "uce")
    }
    assert len({picture for found in made.values() for picture in found}) == 8
    report = json.loads(journal.read("attack", unit.key).to_pylist()[0]["report"])
    assert (
        report["summary"].startswith("a LoRA of rank 2 on") and report["sha256"] == unit.identity.parameters["sha256"]
    )


def test_a_resumed_run_makes_what_is_missing_and_a_changed_file_is_refused(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    path = loras.write_lora(tmp_path / "lora.safetensors", unet)
    plan = planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    worker = run.worker(plan, journal, device="cpu")
    for kind in ("erase", "attack"):
        for unit in plan.pending(kind, journal):
            worker.run(unit)
    assert not plan.pending("attack", journal)
    waiting = [u for u in plan.pending("generate", journal) if u.identity.personalisation]
    assert len(waiting) == 2
    assert run.worker(plan, journal, device="cpu").run(waiting[0]).unassessed == 0
    loras.write_lora(path, unet, seed=1)
    with pytest.raises(CheckpointError, match="changed since this run was planned"):
        run.worker(plan, journal, device="cpu").run(waiting[1])
    loras.write_lora(path, unet)
    assert run.worker(plan, journal, device="cpu").run(waiting[1]).unassessed == 0
    assert not [u for u in plan.pending("generate", journal) if u.identity.personalisation]


def noise(pipeline: Pipeline, model: Any) -> torch.Tensor:
    latents = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found: torch.Tensor = model(latents, 501, pipeline.encode_text(["a ring", "star"]))
    return found


@pytest.mark.parametrize("write", [files.receler, files.spm])
def test_modules_that_a_defence_adds_go_on_acting(
    tmp_path: Path, pipeline: Pipeline, unet: State, write: files.Writer
) -> None:
    erased = apply_artefact(pipeline, str(write(tmp_path, unet, dict(pipeline.text_encoder.state_dict()))))
    deltas = change_of(loras.write_lora(tmp_path / "own" / "lora.safetensors", unet), pipeline).unet
    personal = dataclasses.replace(erased, unet=with_changes(erased.unet, deltas))
    texts = ["a ring", "star"]
    alone = noise(pipeline, erased.noise_model(texts))
    together = noise(pipeline, personal.noise_model(texts))
    bare = with_changes(pipeline.unet, deltas)
    without = noise(pipeline, noise_model(bare))
    assert not torch.allclose(together, alone, atol=1e-4) and not torch.allclose(together, without, atol=1e-4)
    # the same modules on a backbone that had the LoRA before
    twin = apply_artefact(dataclasses.replace(pipeline, unet=bare), str(erased.artefact.where))
    assert torch.allclose(together, noise(pipeline, twin.noise_model(texts)), atol=1e-5)
    assert torch.equal(alone, noise(pipeline, erased.noise_model(texts)))


def weights(models: Models, key: str | None, name: str) -> torch.Tensor:
    return models._unet(key, "float32").state_dict()[name]


def test_dreambooth_adds_its_difference_to_the_model_it_was_trained_from(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    trained = {name: tensor + 0.1 * ("attn2" in name) for name, tensor in unet.items()}
    black = written(tmp_path / "black.safetensors", trained)
    root = tmp_path / "runs"
    plan = planned(spec_with(tmp_path, tiny_folder, black), root)
    journal = run.open_journal(str(root))
    worker = run.worker(plan, journal, device="cpu")
    (erase,) = plan.units_of("erase")
    worker.run(erase)
    (attack,) = plan.units_of("attack")
    assert attack.identity.model is None and worker.run(attack).unassessed == 0
    changed = next(iter(load(journal.blob("erase", erase.key))))
    personal = with_personalisation(worker.models, Personalisation(**attack.identity.parameters, base=None))
    erased = weights(worker.models, erase.key, changed)
    assert not torch.equal(erased, unet[changed])
    assert torch.allclose(weights(personal, erase.key, changed), erased + 0.1, atol=1e-6)
    assert torch.allclose(weights(personal, None, changed), unet[changed] + 0.1, atol=1e-6)
    assert torch.equal(weights(worker.models, None, changed), unet[changed])

    started = {name: tensor.clone() for name, tensor in worker.models._unet(erase.key, "float32").state_dict().items()}
    white = written(tmp_path / "white.safetensors", {**started, changed: started[changed] + 0.2})
    plan = planned(spec_with(tmp_path, tiny_folder, white, box="whitebox"), root)
    worker = run.worker(plan, journal, device="cpu")
    (attack,) = plan.units_of("attack")
    assert attack.identity.model == erase.key and attack.depends == (erase.key,)
    assert worker.run(attack).unassessed == 0
    personal = with_personalisation(worker.models, Personalisation(**attack.identity.parameters, base=erase.key))
    assert torch.allclose(weights(personal, erase.key, changed), started[changed] + 0.2, atol=1e-6)
    assert torch.allclose(weights(personal, None, changed), unet[changed] + 0.2, atol=1e-6)

    written(white, started)
    plan = planned(spec_with(tmp_path, tiny_folder, white, box="whitebox"), root)
    (attack,) = plan.units_of("attack")
    with pytest.raises(CheckpointError, match="adds nothing"):
        run.worker(plan, journal, device="cpu").run(attack)


def test_a_white_box_unet_has_one_erased_model_to_start_from_and_a_lora_needs_none(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    defences = [{"name": "one", "eraser": {"method": "uce"}},
                {"name": "two", "eraser": {"method": "uce", "parameters": {"erase_scale": 2.0}}}]  # fmt: skip
    whole = written(tmp_path / "whole.safetensors", {name: tensor + 1 for name, tensor in unet.items()})

    def spec(path: Path) -> Path:
        return tiny_spec(tmp_path, tiny_folder, scenarios=[scenario(path, "whitebox")], defences=defences)

    with pytest.raises(SpecError, match="have different ones") as caught:
        draft(spec(whole))
    assert caught.value.next_step
    assert len(list(draft(spec(loras.write_lora(tmp_path / "lora.safetensors", unet))).units_of("attack"))) == 1


def test_a_personalised_text_encoder_reads_the_prompts_and_the_backbone_stays_as_it_is(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    down, up = loras.pairs({"encoder.to_q.weight": torch.empty(16, 16)})["encoder.to_q"]
    halves = {f"{module}.down.weight": down, f"{module}.up.weight": up}
    path = written(tmp_path / "lora.safetensors", {**loras.lora_state(unet), **halves})
    plan = planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    (attack,) = plan.units_of("attack")
    models = run.worker(plan, run.open_journal(str(tmp_path / "runs")), device="cpu").models
    personal = with_personalisation(models, Personalisation(**attack.identity.parameters, base=None))
    assert personal is with_personalisation(models, Personalisation(**attack.identity.parameters, base=None))
    assert with_personalisation(models, None) is models
    before = models.states(["a ring"])
    assert not torch.allclose(personal.states(["a ring"]), before, atol=1e-4)
    assert torch.equal(models.reader(None).encode_text(["a ring"])[0], before[0])
    guard = {"name": "irece", "parameters": {}}
    (made,) = personal.guards([ResolvedGuard(**guards.resolve(Guard.model_validate(guard), plan.spec.concept("ring")))])
    assert isinstance(made, Irece)
    assert made._localiser._unet is models._unet(None, "float32")  # the defender's own standard model
    assert torch.equal(made._localiser._encode(["a ring"]), before)
