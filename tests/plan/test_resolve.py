"""What a spec names is looked up once, and what cannot be used is a value of the result, never an error."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from audit.errors import AbsentFile, CheckpointError, DetectorError, SpecError
from audit.plan.resolve import resolve
from audit.plan.resolved import Missing
from audit.run import draft_plan
from audit.spec.document import Spec, load_spec, parse_spec
from audit.weights import references
from audit.weights.references import ModelRef

ON_THE_TESTBED = Path(__file__).parents[2] / "deployments" / "specs" / "m-erasurebench-testbed.yaml"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def few_cases(defences: list[dict[str, Any]]) -> Spec:
    """The shipped benchmark on the testbed with two cases a cell and other defences; its corpus is not rendered."""
    document = load_spec(ON_THE_TESTBED).model_dump(mode="json")
    for scenario in document["scenarios"]:
        scenario["cases"] = 2
        scenario.pop("perturbed_cases", None)
    document |= {"controls": {"cases": 2, "unlearned": ["arrow"]}, "benign": {"cases": 20}}
    return parse_spec({**document, "defences": defences}, "test")


def spec_of(**changes: Any) -> Spec:
    document = {
        "name": "named",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [{"name": "text", "cases": 2, "sampler": {"steps": 10, "guidance": 5.0}}],
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {
            "version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"],
            "retention_waived": "judged elsewhere", "damage_waived": "judged elsewhere",
        },
        **changes,
    }  # fmt: skip
    return parse_spec(document, "test")


@pytest.mark.parametrize("energy", [False, True], ids=["no energy model", "energy model"])
def test_a_plan_reads_each_tokenizer_and_the_backbone_once(energy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's folder is read by every instrument that reads with it, and once for the energy model's sake."""
    load, read, loaded = CLIPTokenizer.from_pretrained, references._read_folder, Counter[str]()

    def counted(folder: Path, **options: Any) -> CLIPTokenizer:
        loaded[f"tokenizer of {folder}"] += 1
        return load(folder, **options)

    def counted_folder(name: str, source: Any, folder: Path, revision: str | None) -> ModelRef:
        loaded[folder.name] += 1
        return read(name, source, folder, revision)

    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", counted)
    monkeypatch.setattr(references, "_read_folder", counted_folder)
    guards = [{"name": "irece"}, *([{"name": "egloce"}] if energy else ())]
    assert draft_plan(few_cases([{"name": "guarded", "guards": guards}]), NOW).draft.cells
    tokenizers = {name: count for name, count in loaded.items() if name.startswith("tokenizer")}
    assert list(tokenizers.values()) == [1] * (2 if energy else 1)
    assert loaded["pipeline"] == 1 and loaded["energy"] == (1 if energy else 0) and loaded["judge"] <= 6


def test_what_is_missing_is_a_value_with_its_error(tmp_path: Path) -> None:
    scenarios = [
        {"name": "text", "cases": 2, "sampler": {"steps": 10, "guidance": 5.0}, "prompts": {"file": "/nowhere/a.csv"}},
        {
            "name": "embedding-blackbox", "cases": 2, "sampler": {"steps": 10, "guidance": 5.0},
            "embedding": "/nowhere/b.bin", "templates": ["a {attack}"],
        },
        {
            "name": "embedding-whitebox", "cases": 2, "sampler": {"steps": 10, "guidance": 5.0},
            "personalisation": "/nowhere/c.safetensors", "templates": ["a {phrase}"],
        },
    ]  # fmt: skip
    defences = [{"name": "vendor", "eraser": {"method": "uce", "checkpoint": "/nowhere/d.pt"}}]
    resolved = resolve(spec_of(backbone="/nowhere/model", scenarios=scenarios, defences=defences))
    values = (
        resolved.backbone,
        resolved.prompt_sets["text"],
        resolved.embeddings["embedding-blackbox", "ring"],
        resolved.personalisations["/nowhere/c.safetensors"],
        resolved.checkpoints["/nowhere/d.pt"],
    )
    assert all(isinstance(value, Missing) for value in values)
    assert [type(value.error) for value in values if isinstance(value, Missing)] == [
        CheckpointError, AbsentFile, AbsentFile, CheckpointError, CheckpointError,
    ]  # fmt: skip
    assert sorted(problem.kind for problem in resolved.problems) == sorted(
        ["model", "prompts", "embedding", "checkpoint", "checkpoint"]
    )
    resolved.require_no_mistake()
    with pytest.raises(CheckpointError, match="no such model folder"):
        resolved.require_complete()


def test_a_mistake_of_the_spec_is_no_missing_file() -> None:
    blind = [{"name": "nude", "kind": "nudenet"}]
    gate = {**spec_of().gate.model_dump(mode="json"), "judges": ["nude"]}
    resolved = resolve(spec_of(backbone="/nowhere/model", detectors=blind, gate=gate))
    assert [problem.mistake for problem in resolved.problems] == [False, True]
    with pytest.raises(DetectorError, match="does not know which of its labels mean"):
        resolved.require_no_mistake()


def test_a_backbone_of_another_family_is_a_mistake(tiny_copy: Path) -> None:
    config = tiny_copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"sample"'))
    resolved = resolve(spec_of(backbone=str(tiny_copy)))
    assert isinstance(resolved.backbone, Missing)
    with pytest.raises(CheckpointError, match="only epsilon and v_prediction"):
        resolved.require_no_mistake()


def test_a_guard_s_mistake_is_found_without_any_model() -> None:
    listed = [{"name": "x", "guards": [{"name": "irece", "parameters": {"tau": 7}}]}]
    resolved = resolve(spec_of(backbone="/nowhere/model", defences=listed))
    with pytest.raises(SpecError, match="tau"):
        resolved.require_no_mistake()


def test_the_same_problem_is_told_once() -> None:
    network = "/nowhere/network"
    quality = [{"name": name, "kind": "features", "model": network} for name in ("one", "other")]
    resolved = resolve(spec_of(quality=quality))
    assert all(isinstance(instrument, Missing) for instrument in resolved.quality.values())
    assert len(resolved.problems) == 1
    assert dataclasses.replace(resolved.problems[0]) == resolved.problems[0]
