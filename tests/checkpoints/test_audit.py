"""A spec names a checkpoint: its content is in the identity, its facts in the journal, and the audit runs through it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from audit import run
from audit.checkpoints import ErasedModel
from audit.checkpoints.key_sets import key_set
from audit.errors import CheckpointError, SpecError
from audit.locations import database_path
from audit.plan.document import Plan, read_plan
from audit.plan.identities import Json, as_json
from audit.spec.document import load_spec
from audit.storage.journal import Journal
from flows.cli import main
from tests.checkpoints.files import SPM_METADATA, bare, spm_state
from tests.flows.audits import finish_run, plan_run, tiny_spec


def weights(pipeline: Path, part: str) -> dict[str, torch.Tensor]:
    (file,) = (pipeline / part).glob("*.safetensors")
    return load_file(file)


def uce_file(path: Path, pipeline: Path, by: float = 0.1) -> Path:
    """Keys and values moved at random: one number for all would vanish, as a layer norm's outputs add up to zero."""
    unet, noise = weights(pipeline, "unet"), torch.Generator().manual_seed(1)
    state = {n: unet[n] + by * torch.randn(unet[n].shape, generator=noise).to(unet[n]) for n in key_set("KV", unet)}
    save_file(state, path)
    return path


def spec_with(folder: Path, pipeline: Path, *checkpoints: tuple[str, Path]) -> Path:
    defences = [
        {"name": f"vendor-{number}", "eraser": {"method": claim, "checkpoint": str(path)}}
        for number, (claim, path) in enumerate(checkpoints)
    ]
    return tiny_spec(folder, pipeline, defences=defences)


def erase_units(plan: Plan) -> list[Json]:
    return [as_json(unit.identity) for unit in plan.units_of("erase")]


def test_an_audit_runs_through_checkpoints_of_each_kind(tmp_path: Path, tiny_folder: Path) -> None:
    """A changed UNet, a changed text encoder and layers that act by prompt give four different sets of pictures."""
    text = bare(weights(tiny_folder, "text_encoder"))
    save_file({name: tensor + 0.2 for name, tensor in text.items()}, tmp_path / "text.safetensors")
    save_file(spm_state(weights(tiny_folder, "unet")), tmp_path / "spm.safetensors", SPM_METADATA)
    claims = [("uce", uce_file(tmp_path / "uce.safetensors", tiny_folder))]
    claims += [("advunlearn", tmp_path / "text.safetensors"), ("spm", tmp_path / "spm.safetensors")]
    root = tmp_path / "runs"
    run_id = finish_run(spec_with(tmp_path, tiny_folder, *claims), root)
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    assert not any(plan.pending(kind, journal) for kind in ("erase", "invert", "generate", "detect"))
    found = {}
    for unit in plan.units_of("erase"):
        (row,) = journal.read("erase", unit.key).to_pylist()
        found[row["artefact"]] = json.loads(row["facts"])
    assert {name: (f["claim"], f["facts"]["layout"]) for name, f in found.items()} == {
        "uce-checkpoint": ("uce", "partial-unet"),
        "advunlearn-checkpoint": ("advunlearn", "text-encoder"),
        "spm-checkpoint": ("spm", "spm"),
    }
    assert not list(root.rglob("units/erase/**/*.safetensors")), "weights were copied into the journal"
    result = run.conclude(journal, run_id, run.consolidate(journal, run_id, database_path(str(root))))
    run.report(journal, result, tmp_path / "report")
    shown = "".join(path.read_text() for path in (tmp_path / "report").glob("*.md"))
    assert "Claimed method" in shown and "partial-unet" in shown and "claimed to be advunlearn" in shown
    pictures = {}
    for unit in plan.units_of("generate"):
        if unit.identity.source == "prompt":
            rows = journal.read("generate", unit.key, ["pixel_sha256"]).to_pylist()
            pictures[unit.identity.model] = tuple(row["pixel_sha256"] for row in rows)
    assert len(pictures) == 4 and len(set(pictures.values())) == 4


def test_identity_is_the_content_and_the_claim(tmp_path: Path, tiny_folder: Path) -> None:
    first, second = uce_file(tmp_path / "a.safetensors", tiny_folder), tmp_path / "elsewhere.safetensors"
    second.write_bytes(first.read_bytes())
    other = uce_file(tmp_path / "b.safetensors", tiny_folder, by=0.2)
    digests = []
    for claim, path in (("uce", first), ("uce", second), ("uce", other), ("rece", first)):
        plan = read_plan(
            Journal(str(tmp_path / "runs")),
            plan_run(spec_with(tmp_path, tiny_folder, (claim, path)), tmp_path / "runs"),
        )
        (identity,) = erase_units(plan)
        assert str(path) not in json.dumps(identity)
        digests.append(next(iter(plan.units_of("erase"))).key)
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_checkpoint_that_changed_after_the_plan_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    path = uce_file(tmp_path / "a.safetensors", tiny_folder)
    run_id = plan_run(spec_with(tmp_path, tiny_folder, ("uce", path)), tmp_path / "runs")
    uce_file(path, tiny_folder, by=0.3)
    journal = Journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    with pytest.raises(CheckpointError, match="changed since this run was planned"):
        worker.run(next(iter(plan.units_of("erase"))))


def test_bad_checkpoints_end_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equal = uce_file(tmp_path / "equal.safetensors", tiny_folder, by=0.0)
    for path, message in ((equal, "nothing was erased"), (tmp_path / "none.pt", "no such checkpoint")):
        spec = spec_with(tmp_path, tiny_folder, ("uce", path))
        assert main(["plan", str(spec), "--root", str(tmp_path / "runs")]) == 2
        shown = capsys.readouterr().err
        assert message in shown and "\n  next:  " in shown


def test_a_claim_that_does_not_fit_is_told_at_planning_time(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = uce_file(tmp_path / "a.safetensors", tiny_folder)
    plan_run(spec_with(tmp_path, tiny_folder, ("esd-x", path)), tmp_path / "runs")
    assert "claimed to be esd-x" in caplog.text


def test_a_checkpoint_takes_no_parameters(tmp_path: Path, tiny_folder: Path) -> None:
    path = spec_with(tmp_path, tiny_folder, ("uce", tmp_path / "a.safetensors"))
    document = yaml.safe_load(path.read_text())
    document["defences"][0]["eraser"]["preset"] = "testbed"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SpecError, match="takes no preset or parameters"):
        load_spec(path)


def test_inversions_through_an_spm_stay_one_batch_when_some_images_converge_first(
    tmp_path: Path, tiny_folder: Path
) -> None:
    save_file(spm_state(weights(tiny_folder, "unet")), tmp_path / "spm.safetensors", SPM_METADATA)
    defence = {"name": "spm", "eraser": {"method": "spm", "checkpoint": str(tmp_path / "spm.safetensors")}}
    latent = {"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 10, "guidance": 1.0}}
    root = tmp_path / "runs"
    run_id = plan_run(tiny_spec(tmp_path, tiny_folder, defences=[defence], scenarios=[latent]), root)
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    (erase,) = plan.units_of("erase")
    worker.run(erase)
    (unit,) = (unit for unit in plan.units_of("invert") if unit.identity.model == erase.key)
    erased = worker.models._model(erase.key, "float32")
    assert isinstance(erased, ErasedModel)
    sizes: list[int] = []
    erased.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    report = worker.run(unit)
    assert report.rows == 3 and not report.unassessed
    assert sizes[0] == 3 and min(sizes) < 3  # otherwise nothing left the batch, and this shows nothing
    assert sum(sizes) == report.unet_calls  # a batch that fails and is halved makes more calls than its rows say
