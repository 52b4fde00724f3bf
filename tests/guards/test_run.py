"""Guards in a whole audit: keys, pictures that a guard gives up, the index, and the report's warning."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit import run
from audit.attacks.embedding_files import write_embedding
from audit.guards.egloce import Egloce
from audit.index.queries import read_result
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import KINDS, read_plan
from audit.records import Status
from audit.report import json_report, markdown
from audit.storage.journal import Journal
from audit.verdict.results import RunResult
from audit.weights.references import ModelRef, resolve_model
from tests.flows.audits import finish_run, plan_run, tiny_spec
from tests.plan.test_planner import SPEC, plan_of
from tests.tiny import write_pipeline

GUARDED = [
    {
        "name": "stacked",
        "eraser": {"method": "uce"},
        "guards": [{"name": "negative-prompt"}, {"name": "irece", "parameters": {"t_star": 501}}],
    }
]


def result_of(root: Path, run_id: str) -> RunResult:
    return read_result(latest(database_path(str(root)).parent / "published"), run_id)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("guarded")
    return folder / "runs", finish_run(tiny_spec(folder, tiny_folder, defences=GUARDED), folder / "runs")


def test_the_index_says_what_each_guard_did_in_each_cell(finished: tuple[Path, str]) -> None:
    result = result_of(*finished)
    cells = {row.cell_id: row for row in result.crr}
    found = {(cells[g.cell_id].scenario, g.guard): g for g in result.guards if cells[g.cell_id].control is None}
    assert set(found) == {(s, g) for s in ("text", "latent-whitebox") for g in ("negative-prompt", "irece")}
    assert found["text", "negative-prompt"].acted == found["text", "negative-prompt"].cases == 3
    assert found["text", "negative-prompt"].steps_mean == 2
    silent = found["latent-whitebox", "negative-prompt"]
    assert silent.acted == 0 and "guidance 1" in str(silent.reason)
    located = found["latent-whitebox", "irece"]
    assert located.acted == 3 and located.unet_calls_mean == 1 and 0 < located.measures["mask_area"] < 1


def test_the_report_warns_of_a_guard_that_never_acted_in_a_cell(finished: tuple[Path, str]) -> None:
    result = result_of(*finished)
    text = markdown.render(result)
    assert "Warning: negative-prompt never acted in ring" in text
    assert "classifier-free guidance is off" in text
    assert "Warning: irece" not in text
    assert json_report.parse(json_report.render(result)).guards == result.guards


def test_guards_own_evaluations_are_counted_with_the_picture(finished: tuple[Path, str]) -> None:
    root, run_id = finished
    journal = Journal(str(root))
    plan = read_plan(journal, run_id)
    counted = set()
    for unit in plan.units_of("generate"):
        if unit.identity.guards and unit.identity.sampler.guidance == 1.0:
            counted |= set(journal.read("generate", unit.key, ["unet_calls"])["unet_calls"].to_pylist())
    assert counted == {3}  # two steps and IRECE's look at the standard model


def test_a_picture_that_a_guard_gives_up_is_unassessed(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Egloce.begin

    def poisoned(self: Egloce, conditioning: Any, timesteps: Any) -> None:
        begin(self, conditioning, timesteps)
        self._kept = [direction * float("nan") if direction is not None else None for direction in self._kept]

    monkeypatch.setattr(Egloce, "begin", poisoned)
    guard = {"name": "egloce", "parameters": {"energy": "testbed/energy", "window": [501, 501], "iterations": 1}}
    defences = [{"name": "egloce", "guards": [guard]}]
    text = [{"name": "text", "cases": 2, "templates": ["a {phrase} x"], "sampler": {"steps": 2, "guidance": 3.0}}]
    spec = tiny_spec(tmp_path, tiny_folder, defences=defences, scenarios=text)
    root = tmp_path / "runs"
    run_id = plan_run(spec, root)
    journal = run.open_journal(str(root))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    for kind in KINDS:
        for unit in plan.pending(kind, journal):
            worker.run(unit)
    guarded = [unit for unit in plan.units_of("generate") if unit.identity.guards]
    rows = [row for unit in guarded for row in journal.read("generate", unit.key).to_pylist()]
    assert rows and all(row["status"] == Status.BLOCKED.value for row in rows)
    assert all(row["image"] is None and "guard egloce: the energy" in row["error"] for row in rows)
    assert json.loads(rows[0]["guard_report"])[0]["failure"]
    run.consolidate(journal, run_id, database_path(str(root)))
    result = result_of(root, run_id)
    (cell,) = [row for row in result.crr if row.defence == "egloce" and row.scenario == "text"]
    assert (cell.hits, cell.assessed, cell.unassessed, cell.worst_case) == (0, 0, 2, 1.0)
    assert {row.reason for row in result.unassessed if row.cell_id == cell.cell_id} == {"blocked"}


def test_a_latent_that_is_not_finite_keeps_its_guards_reports(tmp_path: Path) -> None:
    """A backbone whose predictions overflow: its pictures are unassessed, and the index still says what its guard did."""
    folder = write_pipeline(tmp_path / "pipeline")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_out.bias"] = torch.full_like(weights["conv_out.bias"], 3e38)
    save_file(weights, path, {"format": "pt"})
    text = [{"name": "text", "cases": 2, "sampler": {"steps": 2, "guidance": 3.0}}]
    defences = [{"name": "guarded", "guards": [{"name": "negative-prompt"}]}]
    root = tmp_path / "runs"
    result = result_of(root, finish_run(tiny_spec(tmp_path, folder, defences=defences, scenarios=text), root))
    (cell,) = [row for row in result.crr if row.defence == "guarded" and row.scenario == "text"]
    assert (cell.assessed, cell.unassessed, cell.worst_case) == (0, 2, 1.0)
    (row,) = [row for row in result.guards if row.cell_id == cell.cell_id]
    assert (row.guard, row.cases, row.acted) == ("negative-prompt", 2, 2)


def test_guards_act_on_prompts_with_a_learned_embedding(tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "learned_embeds.safetensors"
    write_embedding(path, "<ring>", torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    egloce = {"energy": "testbed/energy", "window": [501, 501], "iterations": 1}
    guards = [{"name": "irece"}, {"name": "egloce", "parameters": egloce}]
    sampler = {"steps": 2, "guidance": 3.0}
    scenario = {"name": "embedding-blackbox", "cases": 2, "embedding": str(path), "sampler": sampler}
    defences = [{"name": "guarded", "guards": guards}]
    root = tmp_path / "runs"
    result = result_of(
        root, finish_run(tiny_spec(tmp_path, tiny_folder, defences=defences, scenarios=[scenario]), root)
    )
    (cell,) = [row for row in result.crr if row.defence == "guarded" and row.control is None]
    assert (cell.scenario, cell.assessed, cell.unassessed) == ("embedding-blackbox", 2, 0)
    acted = {row.guard: (row.cases, row.acted, row.failed) for row in result.guards if row.cell_id == cell.cell_id}
    assert acted == {"irece": (2, 2, 0), "egloce": (2, 2, 0)}


@pytest.fixture(scope="module")
def backbone(tiny_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_folder))


def keys(backbone: ModelRef, guards: list[dict[str, Any]]) -> set[str]:
    document = copy.deepcopy(SPEC)
    document["defences"][0]["guards"] = guards
    return {unit.key for unit in plan_of(backbone, document).units_of("generate") if unit.identity.guards}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("negative-prompt", {"text": "hoop"}),
        ("sld", {"preset": "strong"}),
        ("sld", {"warmup_steps": 1}),
        ("safree", {"alpha": 0.2}),
        ("safree", {"self_validation": False}),
        ("irece", {"tau": 0.5}),
        ("irece", {"t_star": 601}),
        ("irece", {"noise": "level"}),
        ("irece", {"layers": "up"}),
        ("irece", {"mask": "shifted"}),
        ("egloce", {"rho": 0.03}),
        ("egloce", {"gradient": "stop"}),
        ("egloce", {"window": [701, 201]}),
        ("egloce", {"energy": "testbed/judge"}),
    ],
)
def test_a_changed_guard_parameter_changes_every_key(backbone: ModelRef, name: str, parameters: dict[str, Any]) -> None:
    before, after = (keys(backbone, [{"name": name, "parameters": p}]) for p in ({}, parameters))
    assert before and after and not before & after


def test_the_order_of_guards_is_part_of_the_key_and_defaults_are_not_spelled(backbone: ModelRef) -> None:
    pair = [{"name": "safree"}, {"name": "irece"}]
    assert not keys(backbone, pair) & keys(backbone, pair[::-1])
    assert keys(backbone, [{"name": "irece"}]) == keys(backbone, [{"name": "irece", "parameters": {"tau": 0.4}}])
