"""The shipped benchmark spec on Stable Diffusion v1.4's architecture, cut to narrow layers: shapes and path are right."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit import locations, run
from audit.compute.models import Models
from audit.erasers import ERASERS
from audit.guards import GUARDS, reads
from audit.plan.document import KINDS
from audit.plan.forecast import price
from audit.plan.rate_files import stated
from audit.report import markdown
from audit.run import draft_plan
from audit.spec.document import Spec, load_spec, parse_spec
from audit.spec.scenarios import LatentScenario
from audit.storage.journal import Journal
from audit.testbed.captions import CLASSES
from audit.testbed.scenes import write_corpus
from audit.verdict.results import RunResult
from tests.flows.audits import WAIVED
from tests.instruments.detectors.folders import write_grounding_dino
from tests.sd14 import CUT, write_sd14
from tests.tiny import write_tokenizer

SPEC = Path(__file__).parent.parent / "deployments" / "specs" / "m-erasurebench-sd14.yaml"
ON_THE_TESTBED = SPEC.with_name("m-erasurebench-testbed.yaml")
ON_THE_SECOND = SPEC.with_name("m-erasurebench-testbed-sd3.yaml")
STEPS, CASES = 2, 2
# 128 pixels, so that the deepest attention sees more than one position and all of it is trained
TRAINING = {"iterations": 1, "steps": STEPS, "pixels": 128, "compute": "float32", "learning_rate": 0.01}
CUTS: dict[str, dict[str, Any]] = {
    "esd-u": TRAINING,
    "uce": {},
    "receler": {**TRAINING, "adversarial_iterations": 1, "mask_side": 4, "rank": 4},
}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LEARNING = {"iterations": 2, "batch_size": 1, "images": 2, "held_out": 2, "initial": "o"}
SEARCH = {"population": 4, "generations": 2, "tokens": 4}


def write_spelling_clip(folder: Path) -> Path:
    """A CLIPModel folder that spells every word, so that it reads the shipped spec's prompts."""
    tokenizer = write_tokenizer(folder, 77)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shape, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    config = CLIPConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    return folder


def cut_down(folder: Path, concepts: Sequence[str]) -> dict[str, Any]:
    """The shipped spec with the same structure, of a few concepts, with few cases and steps."""
    document = load_spec(SPEC).model_dump(mode="json")
    document["backbone"] = str(write_sd14(folder / "stable-diffusion-v1-4", CUT))
    document["concepts"] = [
        {**c, "neighbours": [], "neighbour_phrases": {}} for c in document["concepts"] if c["name"] in concepts
    ]
    document["corpus"] = [
        {**e, "url": str(folder / e["concept"])} for e in document["corpus"] if e["concept"] in concepts
    ]
    for shape, entry in zip(CLASSES, document["corpus"], strict=False):  # what they show does not matter here
        write_corpus(entry["url"], shape, CASES, "audit")
    for defence in document["defences"]:
        eraser = defence["eraser"]
        eraser["parameters"] = CUTS[eraser["method"]]
    for scenario in document["scenarios"]:
        scenario["cases"] = CASES
        scenario["sampler"]["steps"] = STEPS
        if scenario["name"].startswith("latent"):
            scenario["fixed_point_passes"] = 2
            scenario["perturbed_cases"] = 1 if scenario["perturbations"] else None
        if scenario["name"].startswith("embedding"):
            scenario["parameters"] = LEARNING
        if scenario["name"] == "adversarial-text":
            scenario.update(found=CASES, parameters=SEARCH)
    judge, clip = document["detectors"]
    judge["model"] = str(write_grounding_dino(folder / "dino", words=NAMES))
    clip["model"] = str(write_spelling_clip(folder / "clip"))
    for entry in document["quality"]:
        entry["model"] = clip["model"] if entry["model"] else None
    clip["parameters"] = {"extra_classes": ["truck", "ship"]} if len(concepts) == 1 else {}
    document["gate"] |= WAIVED
    return {**document, "neighbour_cases": 0, "controls": {"cases": 1}, "unit_size": 4}


def audited(folder: Path, concepts: Sequence[str]) -> RunResult:
    """A complete run of it; every unit is checked on the way."""
    spec = parse_spec(cut_down(folder, concepts), "test")
    root = str(folder / "root")
    journal = run.open_journal(root)
    plan = run.plan(spec, journal, "cut", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "cut"))
    worker = run.worker(plan, journal, "cpu", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Models, "kept", 8)  # these models are small, and loading one takes longer than using it
        for kind in KINDS:
            for unit in plan.pending(kind, journal):
                assert worker.run(unit).errors == 0, unit
    pictures = [row["image"] for key in journal.keys("generate") for row in journal.read("generate", key).to_pylist()]
    assert {Image.open(io.BytesIO(picture["bytes"])).size for picture in pictures if picture} == {(64, 64)}
    methods = [
        json.loads(journal.read("erase", k).to_pylist()[0]["facts"])["record"]["method"] for k in journal.keys("erase")
    ]
    assert sorted(methods) == sorted(["esd-u", "uce", "receler"] * len(concepts))
    return run.conclude(journal, "cut", run.consolidate(journal, "cut", locations.database_path(root)))


def check(result: RunResult, concepts: Sequence[str]) -> None:
    spec = load_spec(SPEC)
    target = [row for row in result.crr if row.role == "target" and row.control is None]
    assert {(row.concept, row.defence, row.scenario) for row in target} == {
        (concept, defence.name, scenario.name)
        for concept in concepts
        for defence in spec.defences
        for scenario in spec.scenarios
    }
    assert all(row.planned == CASES for row in target)
    guarded = {row.cell_id for row in result.guards if row.guard == "irece" and row.acted == row.cases}
    assert guarded >= {row.cell_id for row in target if row.defence == "receler+irece" and row.scenario == "text"}
    assert {row.metric for row in result.quality} >= {"psnr", "ssim", "clip-score", "cmmd"}
    assert {(row.strength, row.planned) for row in result.crr if row.perturbation} == {(0.2, 1), (0.5, 1), (1.0, 1)}
    assert "Beside the reported numbers" in markdown.render(result)


@pytest.mark.timeout(600)
def test_one_concept_goes_through_every_defence_and_scenario(tmp_path: Path) -> None:
    check(audited(tmp_path, ["airplane"]), ["airplane"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_ten_concepts(tmp_path: Path) -> None:
    names = [concept.name for concept in load_spec(SPEC).concepts]
    check(audited(tmp_path, names), names)


def test_the_shipped_spec_is_the_benchmark() -> None:
    spec = load_spec(SPEC)
    assert tuple(concept.name for concept in spec.concepts) == NAMES
    assert {entry.concept for entry in spec.corpus if entry.role == "target"} == set(NAMES)
    assert not {entry.concept for entry in spec.corpus if entry.role != "target"} & set(NAMES)
    plain = {d.name: d.eraser.method for d in spec.defences if d.eraser and not d.guards}
    guarded = {d.name: d.eraser.method for d in spec.defences if d.eraser and [g.name for g in d.guards] == ["irece"]}
    assert plain == {"esd": "esd-u", "uce": "uce", "receler": "receler"}
    assert guarded == {f"{name}+irece": method for name, method in plain.items()}
    assert [scenario.name for scenario in spec.scenarios] == [
        "text", "adversarial-text", "embedding-whitebox", "embedding-blackbox", "latent-whitebox", "latent-blackbox",
    ]  # fmt: skip


@pytest.mark.parametrize("path", [SPEC, ON_THE_TESTBED, ON_THE_SECOND], ids=lambda path: path.stem)
def test_the_readings_of_a_latent_rate_and_the_pictures_quality_stand_beside_it(path: Path) -> None:
    spec = load_spec(path)
    (whitebox,) = (s for s in spec.scenarios if isinstance(s, LatentScenario) and s.name == "latent-whitebox")
    assert len(whitebox.perturbations) >= 2 and all(p.of_latent for p in whitebox.perturbations)
    assert whitebox.perturbed_cases and whitebox.perturbed_cases <= whitebox.cases / 4
    by_role = {
        role: {entry.concept for entry in spec.corpus if entry.role == role} for role in ("neighbour", "control")
    }
    assert spec.controls.unlearned and set(spec.controls.unlearned) <= by_role["control"]
    if path == SPEC:  # every class of the testbed is a concept itself
        assert all(by_role["neighbour"] & set(concept.neighbours) for concept in spec.concepts)
    assert {entry.kind for entry in spec.quality} == {"psnr", "ssim", "clip-score", "features"}
    networks = {entry.model for entry in spec.quality if entry.model}
    guards = [guard for defence in spec.defences for guard in defence.guards]
    assert not networks & {guard.parameters.get("energy") for guard in guards}


def test_every_eraser_and_guard_is_measured_on_the_testbed() -> None:
    defences = load_spec(ON_THE_TESTBED).defences
    variants = {name for name in ERASERS.names() if name.startswith("esd-")} - {"esd-x"}  # of one method
    assert {d.eraser.method for d in defences if d.eraser} == set(ERASERS.names()) - variants
    guards = {name for name in GUARDS.names() if reads(name) is None}
    assert {d.guards[0].name for d in defences if not d.eraser} == guards  # filters have a spec of their own


def test_both_backbones_of_the_testbed_are_asked_the_same() -> None:
    first, second = load_spec(ON_THE_TESTBED), load_spec(ON_THE_SECOND)
    assert {concept.name for concept in first.concepts} == set(CLASSES)
    assert (second.concepts, second.corpus) == (first.concepts, first.corpus)
    ways = [(s.name, s.cases) for s in load_spec(SPEC).scenarios]
    assert [s.name for s in first.scenarios] == [s.name for s in second.scenarios] == [name for name, _ in ways]
    assert {s.cases for s in (*first.scenarios, *second.scenarios)} == {8}
    named = [{d.name for d in spec.defences} for spec in (first, second)]
    assert named[1] & named[0] >= {"irece", "egloce", "esd-x", "esd-x+irece"}
    assert named[0] >= {f"{eraser}{guard}" for eraser in ("esd-x", "uce", "receler") for guard in ("", "+irece")}
    for name in named[0] & named[1]:  # what the page compares
        assert first.defence(name) == second.defence(name)
    assert {s.sampler.dtype for s in (*first.scenarios, *second.scenarios)} == {"float32"}


@pytest.mark.parametrize("count", [1, pytest.param(len(CLASSES), marks=pytest.mark.slow)])
def test_both_backbones_of_the_testbed_take_less_than_three_hours(count: int) -> None:
    """By the forecast that `plan --rate 0.006` prints. It leaves little for judges and loading, which it does not price."""
    hours = 0.0
    for path in (ON_THE_TESTBED, ON_THE_SECOND):
        planned = draft_plan(of_first_concepts(path, count), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        assert {problem.kind for problem in planned.missing} <= {"corpus"}  # which `make m-erasurebench` renders
        attacked = [c.cell for c in planned.draft.cells if c.cell.role == "target" and c.cell.control is None]
        spec = planned.draft.spec
        assert len(attacked) == count * len(spec.defences) * len(spec.scenarios)
        cost = price(planned.draft, Journal("/nowhere"), planned.shape, stated(0.006)).seconds
        assert cost is not None
        hours += cost.expected / 3600 * len(CLASSES) / count
    assert hours < 3


def of_first_concepts(path: Path, count: int) -> Spec:
    """The spec with its first `count` concepts. All concepts cost alike: each has one synonym and as many pictures."""
    document = load_spec(path).model_dump(mode="json")
    kept = [{**concept, "neighbour_phrases": {}} for concept in document["concepts"][:count]]
    names = {concept["name"] for concept in kept}
    entries = [entry for entry in document["corpus"] if entry["role"] != "target" or entry["concept"] in names]
    return parse_spec({**document, "concepts": kept, "corpus": entries}, "test")
