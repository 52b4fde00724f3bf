"""Prompts that a text encoder cannot read whole: each costs its own cases, and a scenario of nothing else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from audit import run
from audit.corpus import ingest
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.errors import SpecError
from audit.plan.document import Plan
from audit.spec.document import load_spec
from audit.testbed.scenes import write_corpus
from tests.flows.audits import tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}
LONG = "a very large and very green and very old star"
TEXT = {"name": "text", "cases": 4, "sampler": SAMPLER, "templates": ["a {phrase}", "a photo of a {phrase}"]}


def plan_of(folder: Path, pipeline: Path, *scenarios: dict[str, Any], **changes: Any) -> Plan:
    """The plan of a spec with a concept of one word and one whose phrase no prompt has room for."""
    concepts = [{"name": "ring", "phrase": "ring"}, {"name": "star", "phrase": LONG}]
    path = tiny_spec(folder, pipeline, scenarios=list(scenarios), **{"concepts": concepts, **changes})
    document = yaml.safe_load(path.read_text())
    document["detectors"][0]["labels"] = {name: ["FACE_FEMALE"] for name in ("ring", "star")}
    path.write_text(yaml.safe_dump(document))
    spec = load_spec(path)
    manifest = MANIFEST_SCHEMA.empty_table()
    if spec.corpus:
        manifest = pa.Table.from_batches(ingest.manifest(spec.corpus, spec.corpus_limits), schema=MANIFEST_SCHEMA)
    return run.unstored_plan(spec, "r", "2026-01-01T00:00:00+00:00", manifest)


def problems(plan: Plan, scenario: str, concept: str) -> list[str | None]:
    """The problems of a concept's cases in the cells of a scenario, its controls excepted."""
    cells = {
        p.cell.cell_id
        for p in plan.cells
        if (p.cell.scenario, p.cell.concept) == (scenario, concept) and p.cell.control in (None, "backbone")
    }
    return [row["problem"] for row in plan.cases.to_pylist() if row["cell_id"] in cells]


def test_a_prompt_that_is_too_long_costs_its_concept_alone(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(tmp_path, tiny_folder, TEXT, corpus=[])
    assert problems(plan, "text", "ring") == [None] * 2 * 4
    found = problems(plan, "text", "star")
    assert len(found) == 2 * 4 and all("the backbone's text encoder reads" in str(said) for said in found)
    assert "scenario text: 4 cases of 'star' cannot be made and stay unassessed" in caplog.text
    assert all(planned.cell.planned == 4 for planned in plan.cells if planned.cell.scenario == "text")


def test_a_template_that_is_too_long_costs_its_own_cases(tmp_path: Path, tiny_folder: Path) -> None:
    scenario = {**TEXT, "templates": ["a {phrase}", "a " * 90 + "{phrase}"]}
    plan = plan_of(tmp_path, tiny_folder, scenario, corpus=[], concepts=[{"name": "ring", "phrase": "ring"}])
    assert [said is None for said in problems(plan, "text", "ring")] == [True, False] * 4


def test_a_scenario_without_one_readable_prompt_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    scenario = {**TEXT, "templates": ["a " * 90 + "{phrase}"]}
    with pytest.raises(SpecError, match="text encoder reads") as caught:
        plan_of(tmp_path, tiny_folder, scenario, corpus=[])
    assert caught.value.next_step


def test_nothing_is_inverted_under_a_prompt_that_cannot_be_read(tmp_path: Path, tiny_folder: Path) -> None:
    latent = {
        "name": "latent-whitebox", "cases": 2, "sampler": {"steps": 2, "guidance": 1.0},
        "inversion_prompt": "a {phrase}",
    }  # fmt: skip
    tiny_spec(tmp_path, tiny_folder)  # writes the pictures of 'ring'
    twin = tmp_path / "corpus" / "star"
    write_corpus(str(twin), "star", 3, "audit")
    entries = [{"url": str(tmp_path / "corpus" / name), "concept": name} for name in ("ring", "star")]
    plan = plan_of(tmp_path, tiny_folder, latent, corpus=entries)
    assert problems(plan, "latent-whitebox", "ring") == [None] * 2 * 2
    assert all(problems(plan, "latent-whitebox", "star"))
    assert {unit.identity.prompt for unit in plan.units_of("invert")} == {"a ring"}


def test_a_search_that_cannot_read_what_it_begins_with_is_not_planned(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = {
        "name": "adversarial-text", "cases": 3, "found": 2, "sampler": SAMPLER,
        "parameters": {
            "population": 4, "generations": 2, "tokens": 4, "target": "a {phrase}", "pairs": [["a {phrase}", "a"]],
        },
    }  # fmt: skip
    plan = plan_of(tmp_path, tiny_folder, search, corpus=[])
    assert problems(plan, "adversarial-text", "ring") == [None] * 2 * 3
    found = problems(plan, "adversarial-text", "star")
    assert len(found) == 2 * 3 and all("text encoder reads" in str(said) for said in found)
    assert "6 cases of 'star' cannot be made" in caplog.text
    assert {unit.identity.concept.name for unit in plan.units_of("attack")} == {"ring"}
