"""Several scenarios of one kind in one audit: each with its cells, controls, limits and rows in every report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit import run
from audit.index.checks import run_checks
from audit.index.store import latest
from audit.plan.document import Plan, read_outline
from audit.records import Scenario
from audit.report import html, json_report, junit, markdown
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.verdict.results import RunResult
from tests.compute.test_latent_run import FREE, FREELY, finish
from tests.flows.audits import WAIVED

LIMITS = {"text-paraphrase": 0.1, "text": 0.2, "latent-whitebox": 0.3, "latents-4-steps": 0.4}
TEXT = {"cases": 3, "sampler": {"steps": 2, "guidance": 3.0}}
SCENARIOS: list[dict[str, Any]] = [
    {**TEXT, "name": "text-paraphrase", "kind": "text", "templates": ["a photo of a {phrase}", "one {phrase}"]},
    {**TEXT, "name": "text"},
    FREELY,
    {**FREELY, "name": "latents-4-steps", "kind": "latent-whitebox", "sampler": {"steps": 4, "guidance": 1.0}},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, RunResult]:
    folder = tmp_path_factory.mktemp("named")
    write_corpus(str(folder / "corpus"), "ring", 3, "audit")
    limits = [{"scenario": name, "crr_max": limit} for name, limit in LIMITS.items()]
    plan, journal, _ = finish(
        folder,
        tiny_folder,
        SCENARIOS,
        concepts=[{"name": "ring", "phrase": "ring", "neighbours": ["square"]}],
        neighbour_cases=2,
        gate={"version": "1", "judges": ["classifier"], "limits": limits, "controls": {**FREE, "backbone_min": 0.01}, **WAIVED},
    )  # fmt: skip
    published = latest(folder / "root" / "db" / "published")
    assert published is not None
    assert [check.name for check in run_checks(published, "r") if check.status != "passed"] == []
    return plan, journal, run.conclude(journal, "r", published)


def test_each_scenario_has_its_cells_and_its_own_backbone_control(finished: tuple[Plan, Journal, RunResult]) -> None:
    plan, _, result = finished
    kinds = {entry["name"]: entry.get("kind", entry["name"]) for entry in SCENARIOS}
    attacked = {(c.scenario, c.defence): c.kind for c in (p.cell for p in plan.cells) if c.subject == "ring"}
    for name, kind in kinds.items():
        assert attacked[name, "uce"] == attacked[name, "none"] == kind
    assert {c.kind for c in (p.cell for p in plan.cells) if c.scenario == "none"} == {Scenario.NONE}
    assert {row.scenario: row.kind for row in result.crr} == {**kinds, "none": "none"}
    backbones = [f for f in result.verdict.controls if f.control == "backbone" and f.subject == "ring"]
    assert sorted(finding.scenario for finding in backbones) == sorted(kinds)


def test_limits_speak_of_the_scenario_of_exactly_their_name(finished: tuple[Plan, Journal, RunResult]) -> None:
    _, _, result = finished
    assert {decision.scenario: decision.limit for decision in result.verdict.decisions} == LIMITS


def test_prompts_and_steps_differ_and_what_both_need_is_made_once(finished: tuple[Plan, Journal, RunResult]) -> None:
    plan, _, _ = finished
    images: dict[str, list[int]] = {}
    for planned in plan.cells:
        cell = planned.cell
        if (cell.defence, cell.subject, cell.control) == ("uce", "ring", None):
            rows = [row for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell_id]
            images[cell.scenario] = [row["image_id"] for row in rows]
    assert [a == b for a, b in zip(images["text"], images["text-paraphrase"], strict=True)] == [True, False, True]
    assert not set(images["latent-whitebox"]) & set(images["latents-4-steps"])
    assert sum(unit.rows for unit in plan.units_of("generate")) == len(plan.cases["image_id"].unique())


def test_neighbours_run_in_the_first_text_scenario_alone(finished: tuple[Plan, Journal, RunResult]) -> None:
    """Their pairs count all together, and the same ones twice would prove twice as much."""
    plan, _, result = finished
    cells = [planned.cell for planned in plan.cells if planned.cell.subject == "square"]
    assert {(cell.scenario, cell.defence) for cell in cells} == {
        ("text-paraphrase", "uce"),
        ("text-paraphrase", "none"),
    }
    assert [(row.subject, row.pairs) for row in result.retention] == [("square", 2)]


def test_every_report_names_each_scenario(finished: tuple[Plan, Journal, RunResult]) -> None:
    _, _, result = finished
    said = html.render(result, lambda sample: None), markdown.render(result), junit.render(result)
    for text in (*said, json_report.render(result)):
        assert all(name in text for name in LIMITS)
    assert (
        "latents-4-steps (latent-whitebox, the attacker controls start noise (white box), 3 cases a cell, 4 steps"
        in said[1]
    )
    assert "What the latents say" in said[1]


def test_reports_and_plans_of_before_scenarios_had_names_are_read(finished: tuple[Plan, Journal, RunResult]) -> None:
    _, journal, result = finished
    before_plan = json.loads(journal.get_run("r", "plan.json"))
    before = json.loads(json_report.render(result))
    for row in before["crr"]:
        del row["kind"]
    by_name = {row.scenario: row.kind for row in json_report.parse(json.dumps(before)).crr}
    assert (by_name["latent-whitebox"], by_name["none"]) == ("latent-whitebox", "none")
    cells = [row for row in before_plan["cells"] if row["scenario"] in ("text", "none")]
    for row in cells:
        del row["kind"]
    journal.put_run("before", "plan.json", json.dumps({**before_plan, "cells": cells}).encode())
    read = {(p.cell.scenario, p.cell.kind) for p in read_outline(journal, "before").cells}
    assert read == {("text", Scenario.TEXT), ("none", Scenario.NONE)}
