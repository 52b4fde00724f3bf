"""IRECE's mask controls: planned beside the guarded cells on request, measured like them, and never decided upon."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pytest

from audit import run
from audit.errors import SpecError
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import Plan, read_plan
from audit.plan.identities import as_json
from audit.records import Role
from audit.report import sections
from audit.spec.document import load_spec, parse_spec
from audit.storage.journal import Journal
from audit.verdict.gate import decide
from audit.verdict.results import CrrRow, RunResult
from tests.flows.audits import finish_run, plan_run, tiny_spec

IRECE = {"name": "irece", "parameters": {"noise": "level"}}
STACK: list[dict[str, Any]] = [{"name": "negative-prompt"}, {**IRECE, "controls": ["random", "full"]}]
INPUTS = ("case_no", "seed", "prompt", "item", "invert_key")


@dataclasses.dataclass(frozen=True)
class Finished:
    """The same audit without and with mask controls, below one root."""

    plans: tuple[Plan, Plan]
    results: tuple[RunResult, RunResult]
    published: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Finished:
    folder = tmp_path_factory.mktemp("masks")
    root, plans, results = folder / "runs", [], []
    journal = Journal(str(root))
    published = database_path(str(root)).parent / "published"
    for stack in ([STACK[0], IRECE], STACK):
        path = tiny_spec(folder, tiny_folder, defences=[{"name": "uce", "eraser": {"method": "uce"}, "guards": stack}])
        run_id = finish_run(path, root)
        plans.append(read_plan(journal, run_id))
        results.append(run.conclude(journal, run_id, latest(published)))
    return Finished((plans[0], plans[1]), (results[0], results[1]), latest(published))


def masked(result: RunResult) -> list[CrrRow]:
    return [row for row in result.crr if str(row.control).startswith("mask-")]


def test_controls_repeat_the_guarded_cell_with_another_mask(finished: Finished) -> None:
    bare, plan = finished.plans
    guarded = [p.cell for p in plan.cells if p.cell.role is Role.TARGET]
    assert {cell.scenario for cell in guarded} == {"text", "latent-whitebox"}
    units = {unit.key: as_json(unit.identity) for unit in plan.units_of("generate")}
    for cell in guarded:
        rows = plan.cases.filter(pc.equal(plan.cases["cell_id"], cell.cell_id)).to_pylist()
        for offset, mask in enumerate(("random", "full"), 1):
            beside = plan.cells[cell.cell_id + offset].cell
            assert (beside.role, beside.control) == (Role.CONTROL, f"mask-{mask}")
            assert (beside.concept, beside.subject, beside.defence, beside.scenario, beside.planned) == (
                (cell.concept, cell.subject, cell.defence, cell.scenario, cell.planned)
            )
            others = plan.cases.filter(pc.equal(plan.cases["cell_id"], beside.cell_id)).to_pylist()
            assert [[row[name] for name in INPUTS] for row in others] == [
                [row[name] for name in INPUTS] for row in rows
            ]
            made, audited = (json.loads(json.dumps(units[one[0]["unit_key"]])) for one in (others, rows))
            assert [guard["name"] for guard in made["guards"]] == ["negative-prompt", "irece"]
            assert made["guards"][1]["parameters"].pop("mask") == mask
            assert audited["guards"][1]["parameters"].pop("mask") == "attention"
            assert {**made, "images": None} == {**audited, "images": None}
    # What was planned without the request is still planned, under the same keys.
    assert set(bare.units["key"].to_pylist()) < set(plan.units["key"].to_pylist())
    eraser = next(row for row in plan.units.to_pylist() if row["kind"] == "erase")
    assert {cell.cell_id for cell in guarded} | {cell.cell_id + 2 for cell in guarded} <= set(eraser["cell_ids"])


def test_their_rates_are_in_the_marts(finished: Finished) -> None:
    plan, result = finished.plans[1], finished.results[1]
    assert [row.planned for row in masked(result)] == [3] * 4 and not masked(finished.results[0])
    with duckdb.connect(str(finished.published), read_only=True) as con:
        rates = con.execute(
            "select control, scenario, planned, assessed + unassessed from mart_crr"
            " where run_id = ? and control like 'mask-%' order by all",
            [plan.run_id],
        ).fetchall()
        acted = con.execute(
            "select g.acted from mart_guards as g inner join mart_crr as c using (run_id, cell_id)"
            " where run_id = ? and c.control like 'mask-%' and g.guard = 'irece'",
            [plan.run_id],
        ).fetchall()
    assert rates == [(f"mask-{m}", s, 3, 3) for m in ("full", "random") for s in ("latent-whitebox", "text")]
    assert acted == [(3,)] * 4


def test_the_verdict_does_not_see_them(finished: Finished) -> None:
    bare, result = finished.results
    said = [
        [(d.defence, d.scenario, d.detector, d.status, d.reason) for d in r.verdict.decisions] for r in (bare, result)
    ]
    assert said[0] == said[1] and bare.verdict.status == result.verdict.status
    assert [check for check in result.verdict.checks if check.status != "passed"] == [
        check for check in bare.verdict.checks if check.status != "passed"
    ]
    policy = finished.plans[1].spec.gate
    for hits in (0, 3):
        crr = [
            dataclasses.replace(row, hits=hits, assessed=3, unassessed=0, rate=hits / 3)
            if row in masked(result)
            else row
            for row in result.crr
        ]
        decided_at = result.verdict.basis.decided_at
        verdict = decide(policy, crr, result.verdict.checks, unassessed=result.unassessed, decided_at=decided_at)
        assert verdict == result.verdict


def test_the_report_shows_them_beside_the_guarded_cell(finished: Finished) -> None:
    section = next(one for one in sections.build(finished.results[1]) if one.key == "controls")
    known, masks = section.tables
    place = [column.label for column in masks.columns].index("Mask")
    assert [row[place] for row in masks.rows] == ["as audited", "random mask", "whole picture"] * 2
    assert not any("mask" in row[0] for row in known.rows)
    assert len(next(one for one in sections.build(finished.results[0]) if one.key == "controls").tables) == 1


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"name": "safree", "controls": ["random"]}, "guard 'safree' has no mask"),
        ({"name": "irece", "parameters": {"mask": "full"}, "controls": ["random"]}, "leave out the parameter mask"),
        ({**IRECE, "controls": ["random", "random"]}, "list one mask more than once"),
        ({**IRECE, "controls": ["nowhere"]}, "controls"),
    ],
)
def test_controls_that_make_no_sense_are_refused(
    tmp_path: Path, tiny_folder: Path, guard: dict[str, Any], message: str
) -> None:
    spec = load_spec(tiny_spec(tmp_path, tiny_folder)).model_dump(mode="json")
    with pytest.raises(SpecError, match=message):
        parse_spec({**spec, "defences": [{"name": "guarded", "guards": [guard]}]}, "test")


def test_every_way_in_has_its_controls(tmp_path: Path, tiny_folder: Path) -> None:
    sampler = {"steps": 2, "guidance": 3.0}
    latent = {"cases": 2, "sampler": {"steps": 2, "guidance": 1.0}, "perturbations": [0.1]}
    learning = {
        "iterations": 1,
        "images": 2,
        "held_out": 1,
        "batch_size": 1,
        "initial": "o",
        "templates": ["a {attack}"],
    }
    scenarios = [
        {"name": "text", "cases": 2, "sampler": sampler},
        {"name": "embedding-blackbox", "cases": 2, "sampler": sampler, "parameters": learning},
        {"name": "embedding-whitebox", "cases": 2, "sampler": sampler, "parameters": learning},
        {"name": "latent-whitebox", **latent},
        {"name": "latent-blackbox", **latent},
    ]
    defences = [{"name": "uce", "eraser": {"method": "uce"}, "guards": STACK}]
    path = tiny_spec(tmp_path, tiny_folder, scenarios=scenarios, defences=defences)
    plan = read_plan(Journal(str(tmp_path / "runs")), plan_run(path, tmp_path / "runs"))
    found = [p.cell.scenario for p in plan.cells if str(p.cell.control).startswith("mask-")]
    assert found == [scenario["name"] for scenario in scenarios for _ in range(2)]
