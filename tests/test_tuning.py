"""Tuning: what the calibration audit consists of, that the splits never meet, and what is chosen from a frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit import run, tuning
from audit.errors import AuditError, CorpusError, SpecError
from audit.journal import Journal
from audit.plan import read_plan
from audit.reading import read_result
from audit.spec import load_spec, parse_spec
from audit.store import latest
from audit.testbed.scenes import write_corpus
from tests.flows.audits import finish_run, tiny_spec

GRID = {"t_star": [501, 1], "tau": [0.4]}
IRECE = {"name": "irece", "parameters": {"noise": "level"}}


def request(**changes: Any) -> tuning.Request:
    fields = {"guard": "irece", "concept": "ring", "defence": "uce", "scenario": "latent-whitebox"}
    return tuning.Request(**{**fields, "grid": GRID, "cases": 3, **changes})


@pytest.fixture
def spec_path(tmp_path: Path, tiny_folder: Path) -> Path:
    held = tmp_path / "held"
    write_corpus(str(held), "ring", 3, "calibration")
    defences = [{"name": "uce", "eraser": {"method": "uce"}, "guards": [{"name": "negative-prompt"}, IRECE]}]
    calibration = [{"url": str(held), "concept": "ring"}]
    return tiny_spec(tmp_path, tiny_folder, defences=defences, calibration=calibration)


def test_the_calibration_audit_holds_every_candidate_and_no_audit_picture(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    trial, tried = tuning.calibration_spec(spec, request())
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


def test_an_audit_never_lists_the_calibration_pictures(spec_path: Path, tmp_path: Path) -> None:
    spec = load_spec(spec_path)
    journal = run.open_journal(str(tmp_path / "runs"))
    manifest = run.collect(spec, journal, "x")
    assert manifest.num_rows == 3 and not any("held" in uri for uri in manifest["uri"].to_pylist())


def test_one_picture_in_both_splits_is_refused(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    splits = tuning.require_disjoint(spec)
    assert splits["calibration"]["pictures"] == splits["corpus"]["pictures"] == 3
    assert splits["calibration"]["sha256"] != splits["corpus"]["sha256"]
    source = Path(spec.corpus[0].url)
    picture = next(source.glob("*.png"))
    (Path(spec.calibration[0].url) / "renamed.png").write_bytes(picture.read_bytes())
    with pytest.raises(
        CorpusError, match=r"1 pictures are in the calibration split and in the audit's corpus.*renamed"
    ):
        tuning.require_disjoint(spec)


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
    from audit.guards.checks import check_guards
    from audit.model_refs import resolve_model

    with pytest.raises(AuditError, match=message):
        trial, _ = tuning.calibration_spec(load_spec(spec_path), request(**changes))
        check_guards(trial, resolve_model(trial.backbone))


def test_without_a_calibration_split_nothing_is_tuned(spec_path: Path) -> None:
    spec = load_spec(spec_path)
    bare = parse_spec({**spec.model_dump(mode="json"), "calibration": []}, "test")
    with pytest.raises(SpecError, match="tuning never touches those of the audit"):
        tuning.calibration_spec(bare, request())


def test_points_come_from_the_finished_calibration_audit(spec_path: Path, tmp_path: Path) -> None:
    import yaml

    trial, tried = tuning.calibration_spec(load_spec(spec_path), request())
    path, root = tmp_path / "trial.yaml", tmp_path / "runs"
    path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
    run_id = finish_run(path, root)
    journal = Journal(str(root))
    from audit.locations import database_path

    result = read_result(latest(database_path(str(root)).parent / "published"), run_id)
    found = tuning.points(result, read_plan(journal, run_id), journal, tried)
    assert [p.parameters for p in found] == list(tried.values())
    assert all(p.planned == 3 and p.pairs == 3 and p.psnr_db < 60 for p in found)
    assert all(p.low <= (p.rate or 0.0) <= p.high for p in found)


def point(rate: float | None, psnr: float) -> tuning.Point:
    return tuning.Point({"psnr": psnr}, "judge", 0, 10, 10, rate, 0.0, 1.0, 10, psnr, 0.9)


def test_the_frontier_and_the_choice() -> None:
    found = [point(0.0, 10.0), point(0.2, 20.0), point(0.2, 18.0), point(0.9, 30.0), point(None, 50.0)]
    assert [(p.rate, p.psnr_db) for p in tuning.frontier(found)] == [(0.0, 10.0), (0.2, 20.0), (0.9, 30.0)]
    assert tuning.choose(found, 0.3).psnr_db == 20.0
    assert tuning.choose(found, 0.1).psnr_db == 10.0
    assert tuning.choose(found[1:], 0.1).psnr_db == 20.0  # the lowest CRR when none is within
    with pytest.raises(SpecError, match="no candidate has an assessed picture"):
        tuning.choose([point(None, 9.0)], 0.1)
    document = tuning.evidence(request(), found, 0.3, {}, "run-1")
    assert document["guard"] == {"name": "irece", "parameters": {"psnr": 20.0}}
    assert document["evidence"]["reached"] and len(document["evidence"]["candidates"]) == 5
