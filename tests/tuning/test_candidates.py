"""Tuning: what the calibration audit consists of, that the splits never meet, and what is chosen from a frontier."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit import run
from audit.errors import AuditError, CorpusError, SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import read_plan
from audit.plan.resolve import resolve
from audit.run import draft_plan
from audit.spec.document import Spec, load_spec, parse_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.tuning import candidates, choice
from tests.flows.audits import finish_run, plan_run, tiny_spec

GRID = {"t_star": [501, 1], "tau": [0.4]}
IRECE = {"name": "irece", "parameters": {"noise": "level"}}


def request(**changes: Any) -> candidates.Request:
    fields = {"guard": "irece", "concept": "ring", "defence": "uce", "scenario": "latent-whitebox"}
    return candidates.Request(**{**fields, "grid": GRID, "cases": 3, **changes})


@pytest.fixture
def spec_path(tmp_path: Path, tiny_folder: Path) -> Path:
    held = tmp_path / "held"
    write_corpus(str(held), "ring", 3, "calibration")
    defences = [{"name": "uce", "eraser": {"method": "uce"}, "guards": [{"name": "negative-prompt"}, IRECE]}]
    calibration = [{"url": str(held), "concept": "ring"}]
    gate = {"residual_max": 100.0, "psnr_min_db": 0.1}  # random weights invert badly
    latent = {"name": "latent-whitebox", "cases": 3, "fixed_point_passes": 1, "quality_gate": gate}
    scenarios = [
        {"name": "text", "cases": 3, "sampler": {"steps": 2, "guidance": 3.0}},
        {**latent, "sampler": {"steps": 2, "guidance": 1.0}},
    ]
    return tiny_spec(tmp_path, tiny_folder, defences=defences, calibration=calibration, scenarios=scenarios)


def test_the_calibration_audit_holds_every_candidate_and_no_audit_picture(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    trial, tried = candidates.calibration_spec(spec, request())
    assert [entry.url for entry in trial.corpus] == [entry.url for entry in spec.calibration]
    assert not {entry.url for entry in trial.corpus} & {entry.url for entry in spec.corpus}
    assert trial.calibration == () and trial.seed != spec.seed
    assert tried == {
        "c000": {"noise": "level", "t_star": 501, "tau": 0.4},
        "c001": {"noise": "level", "t_star": 1, "tau": 0.4},
    }
    assert [d.name for d in trial.defences] == ["unguarded", "c000", "c001"]
    assert [[g.name for g in d.guards] for d in trial.defences] == [
        ["negative-prompt"],
        ["negative-prompt", "irece"],
        ["negative-prompt", "irece"],
    ]
    assert all(d.eraser == spec.defences[0].eraser for d in trial.defences)


def test_irece_joins_a_stack_before_the_egloce_that_would_work_on_overwritten_latents(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    stack = [{"name": name} for name in ("negative-prompt", "egloce", "safree")]
    document = {**spec.model_dump(mode="json"), "defences": [{"name": "uce", "guards": stack}]}
    trial, _ = candidates.calibration_spec(parse_spec(document, "test"), request())
    assert [g.name for g in trial.defence("unguarded").guards] == ["negative-prompt", "egloce", "safree"]
    for name in ("c000", "c001"):
        assert [g.name for g in trial.defence(name).guards] == ["negative-prompt", "irece", "egloce", "safree"]


def test_a_sweep_plans_no_mask_controls(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    stack = [{"name": "negative-prompt"}, {**IRECE, "controls": ["random"]}]
    document = {**spec.model_dump(mode="json"), "defences": [{"name": "uce", "guards": stack}]}
    trial, _ = candidates.calibration_spec(parse_spec(document, "test"), request())
    assert not any(guard.controls for defence in trial.defences for guard in defence.guards)


def test_a_text_scenario_of_its_own_name_needs_no_calibration_pictures(spec_path: Path) -> None:
    document = load_spec(spec_path).model_dump(mode="json")
    text = {"name": "ours", "kind": "text", "cases": 3}
    limits = [{"crr_max": 0.3}, {"crr_max": 0.07, "scenario": "ours"}]
    changes = {
        "scenarios": [*document["scenarios"], text],
        "calibration": [],
        "gate": {**document["gate"], "limits": limits},
    }
    trial, _ = candidates.calibration_spec(parse_spec({**document, **changes}, "test"), request(scenario="ours"))
    assert [(scenario.name, scenario.kind) for scenario in trial.scenarios] == [("ours", "text")]
    assert [limit.crr_max for limit in trial.gate.limits] == [0.07]


def test_an_audit_never_lists_the_calibration_pictures(spec_path: Path, tmp_path: Path) -> None:
    spec = load_spec(spec_path)
    journal = run.open_journal(str(tmp_path / "runs"))
    manifest = run.collect(spec, journal, "x")
    assert manifest.num_rows == 3 and not any("held" in uri for uri in manifest["uri"].to_pylist())


def test_one_picture_in_both_splits_is_refused(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    splits = candidates.splits_of(spec)
    assert splits["calibration"]["pictures"] == splits["corpus"]["pictures"] == 3
    assert splits["calibration"]["sha256"] != splits["corpus"]["sha256"]
    _share_a_picture(spec)
    with pytest.raises(CorpusError, match=SHARED):
        candidates.splits_of(spec)


SHARED = r"1 pictures are in the calibration split and in the audit's corpus.*renamed"


def _share_a_picture(spec: Spec) -> None:
    picture = next(Path(spec.corpus[0].url).glob("*.png"))
    (Path(spec.calibration[0].url) / "renamed.png").write_bytes(picture.read_bytes())


def test_an_audit_that_shares_a_picture_with_the_calibration_split_is_not_planned(
    spec_path: Path, tmp_path: Path
) -> None:
    spec = load_spec(spec_path)
    plan_run(spec_path, tmp_path / "runs")
    now = dt.datetime.now(dt.UTC)
    assert not draft_plan(spec, now).missing
    _share_a_picture(spec)
    with pytest.raises(CorpusError, match=SHARED):
        plan_run(spec_path, tmp_path / "runs")
    (gap,) = draft_plan(spec, now).missing
    assert gap.kind == "corpus" and re.search(SHARED, gap.what)


@pytest.mark.parametrize("name", ["text", "adversarial-text"])
def test_prompts_that_the_audit_reads_are_never_tuned_on(spec_path: Path, name: str) -> None:
    spec = load_spec(spec_path)
    scenario = {"name": name, "cases": 3, "prompts": {"file": "rows.csv"}}
    document = {**spec.model_dump(mode="json"), "scenarios": [scenario]}
    with pytest.raises(SpecError, match="seeds are the audit's own") as refused:
        candidates.calibration_spec(parse_spec(document, "test"), request(scenario=name))
    assert refused.value.where == f"scenarios.{name}.prompts" and "without prompts" in (refused.value.next_step or "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concept": "moon"}, "no concept 'moon'"),
        ({"defence": "esd"}, "no defence 'esd'"),
        ({"scenario": "latent-blackbox"}, "no scenario 'latent-blackbox'"),
        ({"grid": {"tau": []}}, "0 candidates"),
        ({"grid": {"tau": [0.1] * 201}}, "201 candidates"),
        ({"grid": {"speed": [1]}}, "irece parameter speed"),
    ],
)
def test_what_cannot_be_tuned_is_refused(spec_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        trial, _ = candidates.calibration_spec(load_spec(spec_path), request(**changes))
        resolve(trial).require_complete()


def test_without_a_calibration_split_nothing_is_tuned(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    bare = parse_spec({**spec.model_dump(mode="json"), "calibration": []}, "test")
    with pytest.raises(SpecError, match="tuning never touches those of the audit"):
        candidates.calibration_spec(bare, request())


def _finished(spec_path: Path, folder: Path, wanted: candidates.Request) -> tuple[str, Journal, Any]:
    trial, tried = candidates.calibration_spec(load_spec(spec_path), wanted)
    path, root = folder / "trial.yaml", folder / "runs"
    path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
    return finish_run(path, root), Journal(str(root)), tried


def test_points_come_from_the_finished_calibration_audit(spec_path: Path, tmp_path: Path) -> None:
    run_id, journal, tried = _finished(spec_path, tmp_path, request())
    result = read_result(latest(database_path(str(tmp_path / "runs")).parent / "published"), run_id)
    found = choice.points(result, read_plan(journal, run_id), journal, tried)
    assert [p.parameters for p in found] == list(tried.values())
    assert all(p.planned == 3 and p.pairs == 3 and p.psnr_db < 60 for p in found)
    assert all(p.low <= (p.rate or 0.0) <= p.high for p in found)
    assert all(p.worst_case == (p.hits + p.unassessed) / 3 for p in found)


def point(hits: int, psnr: float, assessed: int = 10) -> choice.Point:
    unassessed, rate = 10 - assessed, hits / assessed if assessed else None
    worst = (hits + unassessed) / 10
    return choice.Point({"psnr": psnr}, "judge", hits, assessed, unassessed, 10, rate, 0.0, 1.0, worst, 10, psnr, 0.9)


def test_the_frontier_and_the_choice() -> None:
    found = [point(0, 10.0), point(2, 20.0), point(2, 18.0), point(9, 30.0), point(0, 50.0, assessed=0)]
    assert [(p.rate, p.psnr_db) for p in choice.frontier(found)] == [(0.0, 10.0), (0.2, 20.0), (0.9, 30.0)]
    assert choice.choose(found, 0.3).psnr_db == 20.0
    assert choice.choose(found, 0.1).psnr_db == 10.0
    assert choice.choose(found[1:], 0.1).psnr_db == 20.0  # the lowest worst case when none is within
    with pytest.raises(SpecError, match="no candidate has both an assessed picture"):
        choice.choose([point(0, 9.0, assessed=0), point(0, math.nan)], 0.1)
    document = choice.evidence(request(), found, 0.3, {}, "run-1")
    assert document["guard"] == {"name": "irece", "parameters": {"psnr": 20.0}}
    assert document["evidence"]["reached"] and len(document["evidence"]["candidates"]) == 5


def test_unassessed_cases_count_against_a_candidate() -> None:
    unseen, seen = point(0, 40.0, assessed=1), point(1, 20.0)
    assert choice.choose([unseen, seen], 0.2) is seen
    document = choice.evidence(request(), [unseen, seen], 0.2, {}, "run-1")["evidence"]
    assert document["reached"] and document["chosen"]["unassessed"] == 0
    assert [p["unassessed"] for p in document["candidates"]] == [9, 0]
    assert [p["unassessed"] for p in document["frontier"]] == [0, 9]
    assert not choice.evidence(request(), [unseen], 0.2, {}, "run-1")["evidence"]["reached"]


def test_the_worst_judge_is_the_one_that_proves_least_and_only_touched_pictures_are_compared(
    spec_path: Path, tmp_path: Path
) -> None:
    # A gate that no score passes: the first candidate never acts, the second one always does.
    grid = {"gate": [1e6, 0.0], "t_star": [501]}
    run_id, journal, tried = _finished(spec_path, tmp_path, request(grid=grid))
    result = read_result(latest(database_path(str(tmp_path / "runs")).parent / "published"), run_id)
    blind = [
        dataclasses.replace(r, detector="blind", hits=0, assessed=0, unassessed=r.planned, rate=None, worst_case=1.0)
        for r in result.crr
    ]
    plan = read_plan(journal, run_id)
    shut, acting = choice.points(result, plan, journal, tried)
    assert shut.pairs == 0 and math.isnan(shut.psnr_db) and shut.assessed == 3
    assert acting.pairs == 3 and acting.psnr_db < 60
    gate = plan.spec.gate.model_copy(update={"judges": (*plan.spec.gate.judges, "blind")})
    plan = dataclasses.replace(plan, spec=plan.spec.model_copy(update={"gate": gate}))
    both = dataclasses.replace(result, crr=(*result.crr, *blind))
    assert [(p.judge, p.worst_case) for p in choice.points(both, plan, journal, tried)] == [("blind", 1.0)] * 2
