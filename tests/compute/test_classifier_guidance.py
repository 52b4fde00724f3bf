"""Classifier guidance in a whole audit: planned beside its controls, at a known cost, refused where it cannot be believed."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audit import run
from audit.compute.models import Models
from audit.compute.stages.generate import run_generate
from audit.errors import AuditError, SpecError
from audit.plan.backbone_shape import shape_of
from audit.plan.document import KINDS, Draft, Plan, read_plan
from audit.plan.forecast import calls_of, price
from audit.plan.identities import GenerateIdentity, as_json
from audit.records import Control, Status
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.weights.references import ModelRef, resolve_model
from tests.flows.audits import WAIVED, finish_run, tiny_spec
from tests.synthetic import case, unit

SAMPLER = {"steps": 4, "guidance": 3.0}
GUIDED = {"name": "classifier-guidance", "cases": 3, "guide": "testbed/energy", "sampler": SAMPLER}
DEFENCES = [
    {"name": "uce", "eraser": {"method": "uce"}},
    {
        "name": "guarded",
        "guards": [
            {"name": "sld", "parameters": {"warmup_steps": 1}},
            {"name": "irece", "parameters": {"t_star": 501}},
        ],
    },
]


def spec_of(folder: Path, pipeline: Path, text: bool = False, sections: Any = None, **scenario: Any) -> Path:
    write_corpus(str(folder / "corpus" / "arrow"), "arrow", 2, "audit")
    before = [{"name": "text", "cases": 3, "sampler": SAMPLER}] if text else []
    document = {
        "concepts": [{"name": "ring", "phrase": "ring", "neighbours": ["square", "star"]}],
        "corpus": [
            {"url": str(folder / "corpus" / "ring"), "concept": "ring"},
            {"url": str(folder / "corpus" / "arrow"), "concept": "arrow", "role": "control"},
        ],
        "controls": {"cases": 2, "unlearned": ["arrow"]},
        "scenarios": [*before, {**GUIDED, **scenario}],
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}], **WAIVED},
        "neighbour_cases": 0,
        "benign": {"cases": 0},
    }
    return tiny_spec(folder, pipeline, **{**document, **(sections or {})})


def drafted(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


def cases_of(draft: Draft, control: Control | None, defence: str = "uce") -> list[dict[str, Any]]:
    wanted = ("classifier-guidance", control, defence)
    cells = {p.cell.cell_id for p in draft.cells if (p.cell.scenario, p.cell.control, p.cell.defence) == wanted}
    return [row for row in draft.cases.to_pylist() if row["cell_id"] in cells]


def identity_of(draft: Draft, row: dict[str, Any]) -> GenerateIdentity:
    (found,) = [one.identity for one in draft.units_of("generate") if one.key == row["unit_key"]]
    assert isinstance(found, GenerateIdentity)
    return found


def test_the_probe_stands_beside_its_controls(tmp_path: Path, tiny_folder: Path) -> None:
    draft = drafted(spec_of(tmp_path, tiny_folder, text=True))
    own, random = (cases_of(draft, control) for control in (None, Control.RANDOM_DIRECTION))
    backbone = cases_of(draft, Control.BACKBONE, "none")
    unlearned = [cases_of(draft, Control.UNLEARNED, defence) for defence in ("uce", "none")]
    assert [len(rows) for rows in (own, random, backbone, *unlearned)] == [3, 3, 3, 2, 2]
    assert [(row["seed"], row["prompt"]) for row in own] == [(row["seed"], row["prompt"]) for row in random]
    assert {row["prompt"] for row in unlearned[0]} == {"a photo of a arrow"}
    assert not {row["image_id"] for row in own} & {row["image_id"] for row in [*random, *backbone]}
    guidance = identity_of(draft, own[0]).guidance
    assert guidance is not None and guidance.guide_sha256 == resolve_model("testbed/energy").sha256
    assert (guidance.phrase, guidance.against, guidance.direction) == ("ring", ("square", "star"), "gradient")
    other = identity_of(draft, random[0]).guidance
    assert other is not None and other.direction == "random"
    arrow = identity_of(draft, unlearned[0][0]).guidance
    assert arrow is not None and (arrow.phrase, arrow.against) == ("arrow", ("square", "star"))


def test_pictures_of_other_scenarios_know_nothing_of_guidance(tmp_path: Path, tiny_folder: Path) -> None:
    draft = drafted(spec_of(tmp_path, tiny_folder, text=True))
    stored = [as_json(one.identity) for one in draft.units_of("generate")]
    assert {"guidance" in fields for fields in stored} == {True, False}
    assert all(fields["guidance"] for fields in stored if "guidance" in fields)


def test_every_setting_makes_other_pictures(tmp_path: Path, tiny_folder: Path) -> None:
    def pictures(**given: Any) -> set[int]:
        return {row["image_id"] for row in cases_of(drafted(spec_of(tmp_path, tiny_folder, **given)), None)}

    plain = pictures()
    assert plain == pictures(window=[1000, 0])
    for given in (
        {"scale": 0.3}, {"normalise": "none"}, {"gradient": "full"}, {"views": 1}, {"window": [800, 0]},
        {"against": ["moon"]}, {"guide": "testbed/judge"}, {"guide_templates": ["a {phrase}"]},
    ):  # fmt: skip
        assert not plain & pictures(**given)


@pytest.fixture(scope="module", params=["prediction", pytest.param("full", marks=pytest.mark.slow)])
def finished(request: Any, tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, str]:
    folder = tmp_path_factory.mktemp("guided")
    path = spec_of(folder, tiny_folder, text=True, sections={"defences": DEFENCES}, gradient=request.param)
    journal = run.open_journal(str(folder / "runs"))
    return read_plan(journal, finish_run(path, folder / "runs")), journal, request.param


def rows_of(plan: Plan, journal: Journal, defence: str, control: Control | None) -> list[dict[str, Any]]:
    cases = cases_of(plan, control, defence)
    made = {
        row["image_id"]: row
        for key in {c["unit_key"] for c in cases}
        for row in journal.read("generate", key).to_pylist()
    }
    return [made[one["image_id"]] for one in cases]


def test_a_run_costs_what_the_plan_says(finished: tuple[Plan, Journal, str]) -> None:
    plan, journal, gradient = finished
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    for planned in plan.units_of("generate"):
        identity = planned.identity
        if isinstance(identity, GenerateIdentity) and identity.guidance is not None:
            rows = journal.read("generate", planned.key).to_pylist()
            assert calls_of(planned).expected == sum(row["unet_calls"] for row in rows)
            assert all(row["status"] == Status.OK for row in rows)
            differentiated = gradient == "full" and identity.guidance.direction == "gradient"
            assert calls_of(planned).expected >= len(rows) * 4 * 2 * (2 if differentiated else 1)


def test_guards_of_the_defence_still_act(finished: tuple[Plan, Journal, str]) -> None:
    plan, journal, _ = finished
    for control in (None, Control.RANDOM_DIRECTION):
        for row in rows_of(plan, journal, "guarded", control):
            reports = json.loads(row["guard_report"])
            acted = [(report["guard"], report["acted"]) for report in reports]
            assert acted == [("sld", True), ("irece", True), ("classifier-guidance", True)]
    for row in rows_of(plan, journal, "uce", None):
        (report,) = json.loads(row["guard_report"])
        assert (report["guard"], report["steps"]) == ("classifier-guidance", SAMPLER["steps"])  # each step was steered
    guided, random = (
        [row["pixel_sha256"] for row in rows_of(plan, journal, "guarded", control)]
        for control in (None, Control.RANDOM_DIRECTION)
    )
    assert not set(guided) & set(random)


def test_the_plan_counts_gradients(tmp_path: Path, tiny_folder: Path) -> None:
    draft = drafted(spec_of(tmp_path, tiny_folder, text=True, window=[600, 0]))
    found = price(draft, Journal(str(tmp_path / "runs")), shape_of(resolve_model(str(tiny_folder))))
    pictures = sum(len(cases_of(draft, control, "uce")) for control in (None, Control.UNLEARNED))
    assert found.gradients == 2 * pictures * 3  # the backbone's too; three of the four steps lie in the window
    assert any(f"{found.gradients} gradients through the decoder" in said for said in found.assumptions)


class GuidedBy(Models):
    """The models of a run whose guide lies in a folder."""

    folder = ""

    def guard_model(self, sha256: str) -> ModelRef:
        return resolve_model(self.folder)


def overflowing(folder: Path) -> Path:
    """The testbed's energy with a logit scale whose exponential is no float32, so that no gradient is finite."""
    shutil.copytree(resolve_model("testbed/energy").path, folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["logit_scale"] = torch.full_like(weights["logit_scale"], 200.0)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_guidance_that_breaks_down_leaves_pictures_unassessed(tiny_folder: Path, tmp_path: Path) -> None:
    draft = drafted(spec_of(tmp_path, tiny_folder))
    guidance = identity_of(draft, cases_of(draft, None)[0]).guidance
    described = unit("generate", source="prompt", guidance=guidance, sampler={"steps": 2, "guidance": 1.0}).identity
    assert isinstance(described, GenerateIdentity)
    models = GuidedBy(resolve_model(str(tiny_folder)), Journal(str(tmp_path / "runs")), torch.device("cpu"))
    cases = [case(n, seed=n, prompt="a ring") for n in range(2)]
    made = {}
    for name in ("testbed/energy", str(overflowing(tmp_path / "broken"))):
        models.folder = name
        table, _ = run_generate(described, cases, models, models.journal, lambda item: b"", 2)
        made[name] = table.to_pylist()
    sound, broken = made.values()
    assert [row["status"] for row in sound] == [Status.OK] * 2
    assert [row["status"] for row in broken] == [Status.DEGENERATE] * 2
    assert all("gradient is not finite at timestep 501" in row["error"] for row in broken)


@pytest.mark.parametrize(
    ("scenario", "sections", "message"),
    [
        ({"guide": None}, {}, "names no guiding model"),
        ({"guide": "testbed/classifier"}, {}, "is not a CLIPModel"),
        ({"guide": "./nowhere"}, {}, "no such model folder"),
        (
            {"guide": "testbed/judge"},
            {"detectors": [{"name": "clip", "kind": "clip-zero-shot", "model": "testbed/judge", "background": ["a photo"]}],
             "gate": {"version": "1", "judges": ["clip"], "limits": [{"crr_max": 0.3}], **WAIVED}},
            "optimises against testbed/judge, and the detector 'clip' scores with the same weights",
        ),
        ({}, {"concepts": [{"name": "ring", "phrase": "ring"}]}, "has nothing to tell 'ring' from"),
        ({"against": ["Ring", " ring"]}, {"concepts": [{"name": "ring", "phrase": "ring"}]}, "has nothing to tell 'ring' from"),
        ({"against": ["θθ"]}, {}, "no word of"),
        ({"window": [300, 290]}, {}, "no timestep of the schedule lies in the window"),
        ({"window": [0, 1000]}, {}, "must run from noisy to clean"),
        ({"prompt": None}, {}, "the null prompt has nothing to guide to"),
        ({"prompt": "a ring"}, {}, "must contain {phrase} once"),
        ({"scale": 0}, {}, "scale"),
        ({"prompt": "a photo of a very large red {phrase} on a white table in front of a wall"}, {}, "text encoder reads"),
    ],
)  # fmt: skip
def test_what_proves_nothing_is_refused_before_compute(
    scenario: dict[str, Any], sections: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises((SpecError, AuditError)) as caught:
        prepared = draft_plan(
            load_spec(spec_of(tmp_path, tiny_folder, sections=sections, **scenario)), dt.datetime.now(dt.UTC)
        )
        for problem in prepared.missing:
            raise problem.error
    assert message in f"{caught.value} {caught.value.next_step}"
