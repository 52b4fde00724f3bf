"""Quality in a whole audit: planned like scores, journalled raw, paired case by case, and never better by an error."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from audit import run
from audit.corpus.images import to_model_input
from audit.corpus.ingest import read_picture
from audit.errors import AuditError, DetectorError, SpecError
from audit.index.queries import read_result
from audit.index.store import Store, latest
from audit.instruments import quality as meters
from audit.instruments.quality import Task, formulas
from audit.instruments.set_distances import cmmd
from audit.locations import database_path
from audit.plan.document import Plan, read_plan
from audit.plan.identities import as_json
from audit.plan.preflight.methods import check_methods
from audit.records import Baseline
from audit.report import json_report, markdown, sections
from audit.spec.document import load_spec
from audit.spec.quality import BORDERS, QualitySpec
from audit.spec.sections import CorpusLimits
from audit.storage.journal import Journal
from audit.verdict.results import QualityRow, RunResult
from tests.flows.audits import finish_run, plan_run, tiny_spec

DEFENCES = [
    {"name": "uce", "eraser": {"method": "uce"}},
    {"name": "guarded", "eraser": {"method": "uce"}, "guards": [{"name": "negative-prompt"}]},
]
QUALITY = [
    {"name": "psnr", "kind": "psnr"},
    {"name": "ssim", "kind": "ssim"},
    {"name": "gmsd", "kind": "gmsd"},
    {"name": "prompt-fit", "kind": "clip-score", "model": "testbed/judge"},
    {"name": "clip-space", "kind": "features", "model": "testbed/judge"},
    {"name": "classifier-space", "kind": "features", "model": "testbed/classifier"},
]
TEXT = {"name": "text", "cases": 3, "templates": ["a {phrase}"], "sampler": {"steps": 2, "guidance": 3.0}}
LATENT = {
    "name": "latent-whitebox",
    "cases": 3,
    "sampler": {"steps": 2, "guidance": 1.0},
    "fixed_point_passes": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quality")
    spec = tiny_spec(folder, tiny_folder, defences=DEFENCES, quality=QUALITY, scenarios=[TEXT, LATENT])
    return folder / "runs", finish_run(spec, folder / "runs")


@pytest.fixture(scope="module")
def journal(finished: tuple[Path, str]) -> Journal:
    return Journal(str(finished[0]))


@pytest.fixture(scope="module")
def plan(finished: tuple[Path, str], journal: Journal) -> Plan:
    return read_plan(journal, finished[1])


@pytest.fixture(scope="module")
def result(finished: tuple[Path, str]) -> RunResult:
    root, run_id = finished
    return read_result(latest(database_path(str(root)).parent / "published"), run_id)


def cell(plan: Plan, defence: str, scenario: str, control: str | None = None) -> int:
    (found,) = [
        p.cell.cell_id
        for p in plan.cells
        if (p.cell.defence, p.cell.scenario, p.cell.control) == (defence, scenario, control)
    ]
    return found


def row(result: RunResult, cell_id: int, metric: str, baseline: str, instrument: str | None = None) -> QualityRow:
    (found,) = [
        q
        for q in result.quality
        if (q.cell_id, q.metric, q.baseline) == (cell_id, metric, baseline) and instrument in (None, q.instrument)
    ]
    return found


def pictures(plan: Plan, journal: Journal, cell_id: int) -> list[np.ndarray]:
    """The cell's pictures in case order."""
    made = {}
    for unit in plan.units_of("generate"):
        for one in journal.read("generate", unit.key, ["image_id", "image"]).to_pylist():
            made[one["image_id"]] = np.asarray(Image.open(io.BytesIO(one["image"]["bytes"])).convert("RGB"))
    return [made[case["image_id"]] for case in cases(plan, cell_id)]


def cases(plan: Plan, cell_id: int) -> list[dict[str, Any]]:
    return sorted((c for c in plan.cases.to_pylist() if c["cell_id"] == cell_id), key=lambda c: c["case_no"])


def test_an_embedding_learned_for_one_defence_is_compared_with_no_other(tmp_path: Path, tiny_folder: Path) -> None:
    parameters = {"iterations": 1, "images": 2, "initial": "o", "templates": ["a {attack}"], "held_out": 1}
    shared = {"cases": 2, "templates": ["a {attack}"], "parameters": parameters, "sampler": TEXT["sampler"]}
    scenarios = [{"name": f"embedding-{box}", **shared} for box in ("whitebox", "blackbox")]
    spec = tiny_spec(tmp_path, tiny_folder, quality=QUALITY[:1], scenarios=scenarios)
    run_id = plan_run(spec, tmp_path / "runs")
    plan = read_plan(Journal(str(tmp_path / "runs")), run_id)
    found = {(c.cell_id, c.baseline): c.baseline_cell_id for c in plan.comparisons}
    assert found == {
        (cell(plan, "uce", "embedding-blackbox"), Baseline.BACKBONE): cell(
            plan, "none", "embedding-blackbox", "backbone"
        )
    }


def test_every_attacked_cell_is_compared_with_what_answers_to_it(plan: Plan) -> None:
    found = {(c.cell_id, c.baseline): c.baseline_cell_id for c in plan.comparisons}
    for scenario, always in (("text", Baseline.PROMPT), ("latent-whitebox", Baseline.REFERENCE)):
        backbone, erased, guarded = (
            cell(plan, "none", scenario, "backbone"), cell(plan, "uce", scenario), cell(plan, "guarded", scenario)
        )  # fmt: skip
        assert {b: other for (c, b), other in found.items() if c == backbone} == {always: None}
        assert {b: other for (c, b), other in found.items() if c == erased} == {
            Baseline.BACKBONE: backbone, always: None,
        }  # fmt: skip
        assert {b: other for (c, b), other in found.items() if c == guarded} == {
            Baseline.BACKBONE: backbone, Baseline.UNGUARDED: erased, always: None,
        }  # fmt: skip
    judged = {c.cell_id for c in plan.comparisons}
    assert not judged & {
        p.cell.cell_id for p in plan.cells if p.cell.control in ("reference", "vae-roundtrip", "black")
    }


@pytest.mark.parametrize("metric", ["psnr", "ssim", "gmsd"])
@pytest.mark.parametrize("scenario", ["text", "latent-whitebox"])
def test_pictures_are_compared_case_by_case(
    result: RunResult, plan: Plan, journal: Journal, metric: str, scenario: str
) -> None:
    guarded, erased = cell(plan, "guarded", scenario), cell(plan, "uce", scenario)
    for baseline, other in (("unguarded", erased), ("backbone", cell(plan, "none", scenario, "backbone"))):
        pairs = zip(pictures(plan, journal, guarded), pictures(plan, journal, other), strict=True)
        border = {name: {"border": borders[0]} for name, borders in BORDERS.items()}.get(metric, {})
        values = np.array([getattr(formulas, metric)(one, two, **border) for one, two in pairs])
        found = row(result, guarded, metric, baseline)
        assert (found.planned, found.assessed, found.unassessed) == (3, 3, 0)
        assert found.infinite == np.isinf(values).sum()
        finite = values[np.isfinite(values)]
        if len(finite):
            assert found.mean == pytest.approx(finite.mean())
        assert found.median == pytest.approx(np.median(values)) or (found.median == np.median(values) == math.inf)


def test_latent_cases_are_compared_with_their_reference_image(result: RunResult, plan: Plan, journal: Journal) -> None:
    erased = cell(plan, "uce", "latent-whitebox")
    made = pictures(plan, journal, erased)
    values = []
    for case, picture in zip(cases(plan, erased), made, strict=True):
        scaled = to_model_input(read_picture(case["item_uri"], CorpusLimits(), case["item"]), picture.shape[0])
        values.append(
            formulas.ssim(picture, np.rint((scaled / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8), border="crop")
        )
    assert row(result, erased, "ssim", "reference").mean == pytest.approx(np.mean(values))


def test_the_clip_score_is_a_hundred_times_the_cosine(result: RunResult, plan: Plan, journal: Journal) -> None:
    """Against transformers' own CLIPModel, with its own preprocessing."""
    import torch
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from audit.weights.testbed import weights_path

    folder = weights_path("judge")
    network, tokenizer = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(),
        CLIPTokenizer.from_pretrained(folder),
    )
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    for defence, control in (("none", "backbone"), ("uce", None)):
        chosen = cell(plan, defence, "text", control)
        values = processor([Image.fromarray(p) for p in pictures(plan, journal, chosen)], return_tensors="pt")
        text = tokenizer([case["prompt"] for case in cases(plan, chosen)], padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = network(pixel_values=values["pixel_values"], **text)
        expected = 100 * (output.image_embeds * output.text_embeds).sum(-1).clamp_min(0)
        found = row(result, chosen, "clip-score", "prompt")
        assert found.mean == pytest.approx(expected.mean().item(), abs=1e-3)
        assert (found.assessed, found.unassessed, found.instrument) == (3, 0, "prompt-fit")


def test_set_distances_come_from_the_journalled_vectors(result: RunResult, plan: Plan, journal: Journal) -> None:
    vectors: dict[str, Any] = {}
    for unit in plan.units_of("quality"):
        if unit.identity.instrument.metrics == ("frechet", "cmmd"):
            vectors.update(safetensors.numpy.load(journal.blob("quality", unit.key)))
    erased, backbone = cell(plan, "uce", "latent-whitebox"), cell(plan, "none", "latent-whitebox", "backbone")

    def stacked(cell_id: int, kind: str) -> np.ndarray:
        return np.stack([vectors[f"{case['image_id']}/{kind}"] for case in cases(plan, cell_id)])

    one, other, reference = stacked(erased, "picture"), stacked(backbone, "picture"), stacked(erased, "reference")
    assert row(result, erased, "cmmd", "backbone").value == pytest.approx(cmmd(one, other))
    found = row(result, erased, "cmmd", "reference")
    assert found.value == pytest.approx(cmmd(one, reference)) and found.value > 0
    assert (found.assessed, found.unassessed) == (3, 0)


def test_too_few_pictures_for_a_frechet_distance_are_unassessed_with_the_reason(result: RunResult, plan: Plan) -> None:
    erased = cell(plan, "uce", "text")
    for instrument in ("clip-space", "classifier-space"):
        found = row(result, erased, "frechet", "backbone", instrument)
        assert found.value is None and (found.assessed, found.unassessed) == (0, 3)
        assert "3 pictures of" in str(found.reason) and "are needed" in str(found.reason)
    assert not [q for q in result.quality if q.instrument == "classifier-space" and q.metric == "cmmd"]


def test_reports_show_quality_with_its_instrument(result: RunResult) -> None:
    section = next(s for s in sections.build(result) if s.key == "quality")
    assert {line[1] for line in section.tables[0].rows} >= {"psnr", "ssim", "gmsd", "clip-score", "cmmd", "frechet"}
    text = markdown.render(result)
    assert "the same case without any defence" in text
    again = json_report.parse(json_report.render(result))
    assert again.quality == result.quality
    assert next(i for i in again.quality_instruments if i["instrument"] == "psnr")["package"].startswith("numpy")


def test_folding_twice_and_anew_gives_the_same_numbers(
    finished: tuple[Path, str], journal: Journal, result: RunResult, tmp_path: Path
) -> None:
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
        store.consolidate(journal)
        found = read_result(store.publish(tmp_path / "published"), finished[1])
    assert found.quality == result.quality and found.quality


def broken(finished: tuple[Path, str], tmp_path: Path, damage: Any) -> RunResult:
    """The result of the finished run after `damage` was done to a copy of its index."""
    path = tmp_path / "index.duckdb"
    path.write_bytes(latest(database_path(str(finished[0])).parent / "published").read_bytes())
    with duckdb.connect(str(path)) as con:
        for statement in damage:
            con.execute(statement)
    return read_result(path, finished[1])


@pytest.mark.parametrize(
    "damage",
    [
        "update qualities set status = 'error', error = 'boom', value = null where image_id = {image}",
        "delete from qualities where image_id = {image}",
        "update qualities set value = 'nan' where image_id = {image}",
    ],
)
def test_a_missing_reading_is_unassessed(finished: tuple[Path, str], plan: Plan, tmp_path: Path, damage: str) -> None:
    erased = cell(plan, "uce", "text")
    image = cases(plan, erased)[1]["image_id"]
    found = row(broken(finished, tmp_path, [damage.format(image=image)]), erased, "ssim", "backbone")
    assert (found.planned, found.assessed, found.unassessed) == (3, 2, 1)


def test_a_picture_that_was_not_made_is_read_by_nobody_and_counted_by_all(tmp_path: Path, tiny_folder: Path) -> None:
    """One picture of the erased model is an error, one of the backbone degenerate: both pairs are unassessed."""
    asked = [QUALITY[0], QUALITY[4]]
    spec = tiny_spec(tmp_path, tiny_folder, defences=DEFENCES[:1], quality=asked, scenarios=[TEXT])
    root = tmp_path / "runs"
    run_id = plan_run(spec, root)
    journal = run.open_journal(str(root))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    erased, backbone = cell(plan, "uce", "text"), cell(plan, "none", "text", "backbone")
    bad = {cases(plan, erased)[0]["image_id"]: "error", cases(plan, backbone)[1]["image_id"]: "degenerate"}
    for kind in ("erase", "invert", "generate"):
        for unit in plan.pending(kind, journal):
            worker.run(unit)
    for unit in plan.units_of("generate"):
        table = journal.read("generate", unit.key)
        rows = [
            {**one, "status": bad[one["image_id"]], "error": "boom", "image": None} if one["image_id"] in bad else one
            for one in table.to_pylist()
        ]
        for path in root.rglob(f"{unit.key}.*"):
            path.unlink()
        journal.write(
            "generate", unit.key, type(table).from_pylist(rows, table.schema), {"identity": as_json(unit.identity)}
        )
    reports = [worker.run(unit) for unit in plan.pending("quality", journal)]
    assert sum(report.errors for report in reports) > 0
    assert plan.pending("quality", journal)  # resume measures them once the picture has been made
    run.consolidate(journal, run_id, database_path(str(root)))
    result = read_result(latest(database_path(str(root)).parent / "published"), run_id)
    found = row(result, erased, "psnr", "backbone")
    assert (found.planned, found.assessed, found.unassessed) == (3, 1, 2)
    assert "was not made" in str(found.reason)
    sets = row(result, erased, "cmmd", "backbone")
    assert (sets.value, sets.assessed, sets.unassessed) == (None, 0, 3) and "two pictures" in str(sets.reason)


def test_keys_change_with_the_instrument_and_with_nothing_else(tmp_path: Path, tiny_folder: Path) -> None:
    def keys(entries: list[dict[str, Any]], kind: str = "quality") -> set[str]:
        spec = load_spec(tiny_spec(tmp_path, tiny_folder, defences=DEFENCES, quality=entries, scenarios=[TEXT]))
        journal = run.open_journal(str(tmp_path / "runs"))
        manifest = run.collect(spec, journal, "run")
        return {u.key for u in run.unstored_plan(spec, "run", "2026-01-01T00:00:00+00:00", manifest).units_of(kind)}

    base = keys(QUALITY[3:4])
    renamed = copy.deepcopy(QUALITY[3:4])
    renamed[0]["name"] = "another"
    assert base and keys(renamed) == base
    assert not base & keys([{**QUALITY[3], "model": "testbed/energy"}])
    assert keys([]) == set() and keys([], "generate") == keys(QUALITY, "generate")
    assert keys([], "detect") == keys(QUALITY, "detect")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "x", "kind": "psnr", "model": "testbed/judge"}, "takes no 'model'"),
        ({"name": "x", "kind": "clip-score"}, "needs 'model'"),
        ({"name": "x", "kind": "beauty"}, "quality.0.kind"),
    ],
)
def test_mistakes_in_the_spec_are_refused(tmp_path: Path, tiny_folder: Path, entry: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_methods(load_spec(tiny_spec(tmp_path, tiny_folder, quality=[entry])))


def test_two_instruments_of_one_name_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(SpecError, match="appears more than once"):
        load_spec(tiny_spec(tmp_path, tiny_folder, quality=[QUALITY[0], QUALITY[0]]))


@pytest.mark.parametrize("kind", ["clip-score", "features"])
def test_a_model_of_another_kind_is_refused_before_any_compute(kind: str) -> None:
    with pytest.raises(AuditError) as caught:
        meters.build(QualitySpec.model_validate({"name": "x", "kind": kind, "model": "testbed/pipeline"}))
    assert caught.value.next_step


def test_lpips_without_its_package_or_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = QualitySpec(name="x", kind="lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DetectorError, match="cannot measure here") as caught:
        meters.build(entry)
    assert "gmsd" in str(caught.value.next_step)
    (tmp_path / "lpips" / "weights" / "v0.1").mkdir(parents=True)
    (tmp_path / "lpips" / "__init__.py").touch()
    (tmp_path / "lpips" / "weights" / "v0.1" / "alex.pth").touch()
    with pytest.raises(DetectorError, match="AlexNet's weights are not at"):
        meters.build(entry)


def test_a_prompt_that_clip_cannot_read_in_full_has_no_score() -> None:
    meter = meters.build(QualitySpec(name="x", kind="clip-score", model="testbed/judge"))
    grey = np.full((64, 64, 3), 128, np.uint8)
    good, long, empty = meter.read(
        [Task(grey, prompt="a ring"), Task(grey, prompt="a ring " * 60), Task(grey, prompt=" ")]
    )
    assert good.value is not None and 0 <= good.value <= 100
    assert "tokens, and it reads" in str(long.error) and "empty" in str(empty.error)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "psnr", "border": "crop"}, "a psnr instrument takes no 'border'"),
        ({"kind": "ssim", "border": "zero"}, "a ssim instrument knows the borders crop and reflect"),
        ({"kind": "gmsd", "border": "crop"}, "a gmsd instrument knows the borders zero and reflect"),
    ],
)
def test_a_border_that_the_formula_does_not_know_is_refused(entry: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualitySpec.model_validate({"name": "one", **entry})


@pytest.mark.parametrize(("kind", "default", "other"), [("ssim", "crop", "reflect"), ("gmsd", "zero", "reflect")])
def test_the_border_is_a_part_of_the_instrument(kind: str, default: str, other: str) -> None:
    made = {
        border: meters.build(QualitySpec(name=kind, kind=kind, **({"border": border} if border else {})))
        for border in (None, default, other)
    }
    ids = {border: meter.instrument.instrument_id for border, meter in made.items()}
    assert ids[None] == ids[default] != ids[other]
    assert f'"border":"{default}"' in str(made[None].instrument.parameters).replace(" ", "")
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    values = {border: meter.read([Task(first, second)])[0].value for border, meter in made.items()}
    assert values[None] == values[default] == getattr(formulas, kind)(first, second, border=default)
    assert values[other] == getattr(formulas, kind)(first, second) != values[default]


def test_a_picture_without_an_inside_has_no_similarity() -> None:
    small = np.zeros((8, 10, 3), np.uint8)
    (reading,) = meters.build(QualitySpec(name="ssim", kind="ssim")).read([Task(small, small)])
    assert reading.value is None and reading.error is not None
    assert "10 x 8 pixels has nothing inside" in reading.error and "border: reflect" in reading.error
