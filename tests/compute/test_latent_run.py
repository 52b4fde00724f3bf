"""Latent scenarios through every stage at the smallest size: exact samplers, prompts, perturbations, bad images."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from audit import run
from audit.index import queries
from audit.index.checks import run_checks
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import KINDS, Plan
from audit.progress import warnings_to
from audit.run import draft_plan
from audit.spec.document import parse_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.verdict.results import CrrRow, RunResult
from tests.flows.audits import WAIVED
from tests.instruments.detectors.folders import write_classifier

FREE = {"reference_min": 0, "vae_roundtrip_min": 0, "backbone_min": 0, "random_latent_max": 1}


def finish(
    folder: Path, pipeline: Path, scenarios: Sequence[Mapping[str, Any]], **changes: Any
) -> tuple[Plan, Journal, RunResult]:
    document = {
        "name": "latent",
        "backbone": str(pipeline),
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "corpus": [{"url": str(folder / "corpus"), "concept": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": list(scenarios),
        "controls": {"cases": 2},
        "detectors": [
            {"name": "classifier", "kind": "classifier", "model": str(write_classifier(folder / "classifier"))}
        ],
        "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.1}], "controls": FREE, **WAIVED},
        **changes,
    }
    spec, root = parse_spec(document, "test"), str(folder / "root")
    journal = run.open_journal(root)
    plan = run.plan(spec, journal, "r", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "r"))
    worker = run.worker(plan, journal, "cpu", 8)
    for kind in KINDS:
        for unit in plan.pending(kind, journal):
            assert not worker.run(unit).errors
    return plan, journal, queries.read_result(run.consolidate(journal, "r", database_path(root)), "r")


def rows(result: RunResult, defence: str = "uce", scenario: str = "latent-whitebox") -> list[CrrRow]:
    return [r for r in result.crr if (r.defence, r.scenario) == (defence, scenario)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, RunResult]:
    folder = tmp_path_factory.mktemp("latent")
    write_corpus(str(folder / "corpus"), "ring", 3, "audit")
    free = {"residual_max": 1e9, "psnr_min_db": 1e-9}  # random weights: what is made counts here, not how good it is
    exact = {
        "name": "latent-whitebox", "cases": 3, "method": "o-belm", "sampler": {"steps": 4, "guidance": 1.0},
        "perturbations": [{"kind": "image-noise", "strength": 8}, {"kind": "image-resize", "strength": 0.5}],
    }  # fmt: skip
    prompted = {
        "name": "latent-blackbox", "cases": 3, "sampler": {"steps": 4, "guidance": 2.0}, "quality_gate": free,
        "inversion_prompt": "a {phrase}", "regeneration_prompt": "a {phrase}",
        "perturbations": [0.5, {"kind": "latent-noise-sphere", "strength": 0.5}],
    }  # fmt: skip
    return finish(folder, tiny_folder, [exact, prompted])


def test_an_exact_sampler_stores_its_pair_and_passes_the_default_quality_gate(
    finished: tuple[Plan, Journal, RunResult],
) -> None:
    plan, journal, result = finished
    for unit in plan.units_of("invert"):
        stored = safetensors.torch.load(journal.blob("invert", unit.key))
        exact = unit.identity.method == "o-belm"
        assert len(stored) == unit.rows * (3 if exact else 2)
        for row in journal.read("invert", unit.key).to_pylist():
            assert (f"{row['item']}.second" in stored) is exact
            assert f"{row['item']}.returned" in stored
            if exact:
                assert row["residual_max"] < 1e-5
                assert row["psnr_roundtrip_db"] > 80
                assert row["unet_calls"] == 4 + 3
                assert row["passes_mean"] == 1.0
    assert {r.failed_gate for r in result.round_trips if r.cases} == {0}
    assert {row.assessed for row in rows(result)} == {3}


def test_perturbed_cells_are_measured_and_carry_their_strength(finished: tuple[Plan, Journal, RunResult]) -> None:
    _, _, result = finished
    found = {(r.scenario, r.perturbation, r.strength, r.control) for r in result.crr if r.perturbation}
    assert found == {
        ("latent-whitebox", "image-noise", 8.0, "perturbed"),
        ("latent-whitebox", "image-resize", 0.5, "perturbed"),
        ("latent-blackbox", "latent-noise", 0.5, "perturbed"),
        ("latent-blackbox", "latent-noise-sphere", 0.5, "perturbed"),
    }
    assert all(r.assessed == r.planned == 3 for r in result.crr if r.perturbation)


def test_a_perturbation_changes_the_pictures(finished: tuple[Plan, Journal, RunResult]) -> None:
    plan, journal, _ = finished
    pixels: dict[str | None, set[str]] = {}
    for planned in plan.cells:
        cell = planned.cell
        if cell.defence == "uce" and cell.scenario == "latent-blackbox" and cell.control != "random-latent":
            keys = {row["unit_key"] for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell_id}
            hashes = {h for key in keys for h in journal.read("generate", key)["pixel_sha256"].to_pylist()}
            pixels[cell.perturbation] = hashes
    assert set(pixels) == {None, "latent-noise", "latent-noise-sphere"}
    assert len(set.union(*pixels.values())) == 3 * 3


def test_the_mart_of_latents_leaves_perturbed_cells_out(finished: tuple[Plan, Journal, RunResult]) -> None:
    _, _, result = finished
    named = {row.cell_id: row for row in result.crr}
    assert result.latents
    assert {named[row.cell_id].perturbation for row in result.latents} == {None}
    for row in result.latents:
        assert row.latents == 3
        assert row.nll_low <= row.nll_median <= row.nll_high
        assert row.nll_median == pytest.approx(0.5 * (row.rms_median**2 + np.log(2 * np.pi)), rel=1e-3)


def test_the_round_trip_is_the_white_box_picture(finished: tuple[Plan, Journal, RunResult]) -> None:
    """What an inversion denoised already is decoded, not denoised again; computed anew it has the same bytes."""
    plan, journal, _ = finished
    worker, taken, own = run.worker(plan, journal, "cpu", 8), 0, 0
    methods = {unit.key: unit.identity.method for unit in plan.units_of("invert")}
    for unit in plan.units_of("generate"):
        if unit.identity.source != "latent":
            continue
        for row, again in zip(
            journal.read("generate", unit.key).to_pylist(),
            worker.draw_again(unit, unit.identity.images).to_pylist(),
            strict=True,
        ):
            assert again["denoised_by"] is None and again["unet_calls"] > 0
            assert row["pixel_sha256"] == again["pixel_sha256"]
            if methods[row["invert_key"]] == "o-belm":  # at guidance 1, by the model that inverted
                assert row["denoised_by"] == row["invert_key"] and row["unet_calls"] == 0
                taken += 1
            else:  # guidance 2, and mostly another model
                assert row["denoised_by"] is None and row["unet_calls"] == again["unet_calls"]
                own += 1
    assert taken and own


def saved(array: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_mixed_corpus(folder: Path) -> tuple[int, dict[str, str]]:
    """How many objects of all kinds were written, and the unusable ones with what must be said of them."""
    write_corpus(str(folder), "ring", 36, "audit")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    frame = Image.fromarray(255 - colour)
    good = {
        "cmyk.jpg": saved(colour, "JPEG", "CMYK"),
        "deep.png": saved(rng.integers(0, 65535, (64, 64), dtype=np.uint16), "PNG"),
    }
    bad = {
        "corrupt.png": (saved(colour, "PNG")[:2000], "truncated or corrupt PNG"),
        "animated.gif": (saved(colour, "GIF", save_all=True, append_images=[frame]), "animated or multi-page"),
        "enormous.png": (saved(np.zeros((300, 300), np.uint8), "PNG"), "too many pixels"),
        "notes.txt": (b"not a picture", "not an image"),
    }
    for name, data in (good | {name: data for name, (data, _) in bad.items()}).items():
        (folder / name).write_bytes(data)
    return 36 + len(good) + len(bad), {name: reason for name, (_, reason) in bad.items()}


def test_bad_images_are_reported_each_and_stay_in_the_denominator(tmp_path: Path, tiny_folder: Path) -> None:
    total, bad = write_mixed_corpus(tmp_path / "corpus")
    scenario = {
        "name": "latent-whitebox", "cases": total, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1,
        "quality_gate": {"residual_max": 1e9, "psnr_min_db": 1e-9},
    }  # fmt: skip
    limits = {"max_pixels": 100 * 100}
    plan, journal, result = finish(tmp_path, tiny_folder, [scenario], corpus_limits=limits)
    for row in rows(result):
        assert row.planned == total
        assert row.unassessed == len(bad)
        assert row.assessed == total - len(bad)
        assert row.worst_case == pytest.approx((row.hits + len(bad)) / total)
    # Controls draw some of the corpus, by a digest of its URLs: how many unreadable ones among them is up to the folder.
    cells = {row.cell_id for row in rows(result)}
    counted = [r for r in result.unassessed if r.reason == "unreadable" and r.cell_id in cells]
    assert counted and {r.cases for r in counted} == {len(bad)}
    said = {}
    for unit in plan.units_of("invert"):
        uris = plan.items_of(unit.key)
        for row in journal.read("invert", unit.key).to_pylist():
            if row["status"] != "ok":
                said[uris[row["item"]].rsplit("/", 1)[1]] = row["status"], row["error"]
    assert set(said) == set(bad)
    for name, (status, reason) in said.items():
        assert status == "unreadable"
        assert bad[name] in reason


FREELY = {
    "name": "latent-whitebox", "cases": 3, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1,
    "quality_gate": {"residual_max": 1e9, "psnr_min_db": 1e-9},
}  # fmt: skip


MADE_OF_NOTHING = ("random-latent", "black", "noise-latent", "noise-pixels")  # controls that need no picture


def test_an_empty_prefix_costs_its_concept_alone(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(str(tmp_path / "corpus"), "ring", 3, "audit")
    (tmp_path / "empty").mkdir()
    changes = {
        "concepts": [{"name": name, "phrase": name} for name in ("ring", "square")],
        "corpus": [
            {"url": str(tmp_path / "corpus"), "concept": "ring"},
            {"url": str(tmp_path / "empty"), "concept": "square"},
        ],
    }
    scenarios = [{**FREELY, "perturbations": [0.5, {"kind": "image-noise", "strength": 8}]}]
    plan, journal, result = finish(tmp_path, tiny_folder, scenarios, **changes)
    starved = [row for row in result.crr if row.concept == "square" and row.control not in MADE_OF_NOTHING]
    assert {row.control for row in starved} >= {None, "backbone", "reference", "vae-roundtrip", "perturbed"}
    assert all(row.planned > 0 and row.unassessed == row.planned and row.assessed == 0 for row in starved)
    assert {row.planned for row in starved if row.control is None} == {3}
    assert all(row.assessed == 3 for row in rows(result) if row.concept == "ring" and row.control is None)
    said = {row["problem"] for row in plan.cases.to_pylist() if row["problem"]}
    assert said == {f"there are no objects under this corpus URL ({tmp_path / 'empty'})"}
    assert not any("square" in str(unit.identity.prompt) for unit in plan.units_of("invert"))
    published = latest(tmp_path / "root" / "db" / "published")
    assert published is not None
    verdict = run.conclude(journal, "r", published).verdict
    assert verdict is not None
    assert [d.status.value for d in verdict.decisions if d.concept == "square"] == ["INCONCLUSIVE"]
    assert [check.name for check in run_checks(published, "r") if check.status != "passed"] == []


def test_an_empty_prefix_is_named_by_plan_and_is_no_gap(tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(str(tmp_path / "corpus"), "ring", 3, "audit")
    for name in ("empty", "void"):
        (tmp_path / name).mkdir()
    spec = {
        "name": "latent",
        "backbone": str(tiny_folder),
        "concepts": [{"name": name, "phrase": name} for name in ("ring", "square")],
        "corpus": [
            {"url": str(tmp_path / "corpus"), "concept": "ring"},
            {"url": str(tmp_path / "empty"), "concept": "square"},
        ],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [FREELY],
        "controls": {"cases": 2},
        "detectors": [{"name": "c", "kind": "classifier", "model": str(write_classifier(tmp_path / "classifier"))}],
        "gate": {"version": "1", "judges": ["c"], "limits": [{"crr_max": 0.1}], **WAIVED},
    }
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    warned: list[str] = []
    with warnings_to(warned.append):
        found = draft_plan(parse_spec(spec, "test"), now)
    assert found.missing == ()
    assert any("6 cases of 'square'" in said and "no objects" in said for said in warned)
    spec["corpus"] = [{"url": str(tmp_path / n), "concept": c} for n, c in (("empty", "square"), ("void", "ring"))]
    assert {gap.kind for gap in draft_plan(parse_spec(spec, "test"), now).missing} == {"corpus"}


def test_many_unreadable_objects_are_warned_of_and_end_inconclusive(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_corpus(str(tmp_path / "corpus"), "ring", 3, "audit")
    for name in ("one.png", "two.png"):
        (tmp_path / "corpus" / name).write_bytes(name.encode())
    _, journal, result = finish(tmp_path, tiny_folder, [{**FREELY, "cases": 5}])
    check = "manifest: unreadable share is within 0 and 0.1"
    assert "can only be INCONCLUSIVE" in caplog.text and check in caplog.text
    for row in rows(result):
        assert (row.planned, row.assessed, row.unassessed) == (5, 3, 2)
    published = latest(tmp_path / "root" / "db" / "published")
    assert published is not None
    verdict = run.conclude(journal, "r", published).verdict
    assert verdict is not None and verdict.status.value == "INCONCLUSIVE"
    assert check in str(verdict)
