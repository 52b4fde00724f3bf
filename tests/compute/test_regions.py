"""Quality outside the concept's region in a whole audit: which pixels count, whose cells, and what the keys know of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit import run
from audit.corpus.images import to_model_input
from audit.errors import CorpusError, SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.instruments import quality as meters
from audit.instruments.quality import Task, formulas
from audit.locations import database_path
from audit.plan.document import Plan, read_plan
from audit.records import Control
from audit.spec.document import load_spec, parse_spec
from audit.spec.quality import QualitySpec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from tests.compute.test_quality_units import cases, pictures, row
from tests.flows.audits import finish_run, plan_run, tiny_spec

OUTSIDE = [{"name": f"{kind}-outside", "kind": kind, "where": "outside-region"} for kind in ("psnr", "ssim", "gmsd")]
QUALITY = [{"name": "psnr", "kind": "psnr"}, *OUTSIDE]
LATENT = {"name": "latent-whitebox", "cases": 2, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1}
TEXT = {"name": "text", "cases": 2, "sampler": {"steps": 2, "guidance": 3.0}}


def spec_of(folder: Path, pipeline: Path, **changes: Any) -> Path:
    """A spec whose ring pictures have masks, and whose neighbour's have none."""
    write_corpus(str(folder / "ring"), "ring", 2, "audit", 2, regions=str(folder / "masks"))
    write_corpus(str(folder / "square"), "square", 2, "audit", 2, without=("ring",))
    corpus = [
        {"url": str(folder / "ring"), "concept": "ring", "regions": str(folder / "masks")},
        {"url": str(folder / "square"), "concept": "square", "role": "neighbour"},
    ]
    fields = {"concepts": [{"name": "ring", "phrase": "ring", "neighbours": ["square"]}], "corpus": corpus}
    detectors = [{"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"], "square": ["FACE_MALE"]}}]
    fields |= {"quality": QUALITY, "scenarios": [TEXT, LATENT], "detectors": detectors}
    return tiny_spec(folder, pipeline, **{**fields, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("regions")
    return folder, finish_run(spec_of(folder, tiny_folder), folder / "runs")


@pytest.fixture(scope="module")
def plan(finished: tuple[Path, str]) -> Plan:
    return read_plan(Journal(str(finished[0] / "runs")), finished[1])


def cell(plan: Plan, defence: str, control: Control | None) -> int:
    """The ring's cell of the latent scenario."""
    sought = ("ring", defence, "latent-whitebox", control)
    found = [p.cell for p in plan.cells if (p.cell.subject, p.cell.defence, p.cell.scenario, p.cell.control) == sought]
    return found[0].cell_id


def test_the_pixels_outside_the_region_are_compared(finished: tuple[Path, str], plan: Plan) -> None:
    folder, run_id = finished
    journal = Journal(str(folder / "runs"))
    result = read_result(latest(database_path(str(folder / "runs")).parent / "published"), run_id)
    erased, backbone = cell(plan, "uce", None), cell(plan, "none", Control.BACKBONE)
    pairs = list(zip(pictures(plan, journal, erased), pictures(plan, journal, backbone), strict=True))
    outside = []
    for case, (one, _) in zip(cases(plan, erased), pairs, strict=True):
        with Image.open(folder / "masks" / Path(case["item_uri"]).name) as image:
            outside.append(to_model_input(np.asarray(image.convert("RGB")), one.shape[0])[..., 0] < 0)
    for metric, border in (("psnr", {}), ("ssim", {"border": "crop"}), ("gmsd", {"border": "zero"})):
        formula = getattr(formulas, metric)
        values = [formula(*pair, region, **border) for pair, region in zip(pairs, outside, strict=True)]
        found = row(result, erased, metric, "backbone", f"{metric}-outside")
        assert (found.planned, found.assessed) == (2, 2) and found.mean == pytest.approx(np.mean(values))
    whole = row(result, erased, "psnr", "backbone", "psnr")
    assert whole.mean != row(result, erased, "psnr", "backbone", "psnr-outside").mean
    # Neither prompts nor the neighbour's pictures have a region: nothing is asked of them, and nothing counts as missing.
    latent = {planned.cell.cell_id: planned.cell for planned in plan.cells}
    measured = {latent[q.cell_id].subject for q in result.quality if q.instrument == "psnr-outside"}
    kinds = {latent[q.cell_id].kind for q in result.quality if q.instrument == "psnr-outside"}
    assert (measured, kinds) == ({"ring"}, {"latent-whitebox"})
    assert {latent[q.cell_id].subject for q in result.quality if q.instrument == "psnr"} >= {"ring", "square"}


def masks_of(plan: Plan) -> Mapping[str, set[str]]:
    """Instrument kind and its `where` -> masks in the identities of its units."""
    found: dict[str, set[str]] = {}
    for unit in plan.units_of("quality"):
        instrument = unit.identity.instrument
        name = instrument.kind + ("-outside" if "outside-region" in instrument.parameters else "")
        found.setdefault(name, set()).update(unit.identity.regions.values())
    return found


def test_a_unit_s_key_knows_the_masks_that_it_reads(
    finished: tuple[Path, str], plan: Plan, tmp_path: Path, tiny_folder: Path
) -> None:
    known = {case["region"] for case in plan.cases.to_pylist() if case["region"]}
    assert len(known) == 2 and masks_of(plan) == {
        "psnr": set(), "psnr-outside": known, "ssim-outside": known, "gmsd-outside": known
    }  # fmt: skip
    spec = spec_of(tmp_path, tiny_folder)
    Image.new("L", (64, 64), 0).save(tmp_path / "masks" / "ring-00000.png")
    with pytest.raises(CorpusError, match="it is all black"):
        plan_run(spec, tmp_path / "runs")
    with Image.open(finished[0] / "masks" / "ring-00000.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "masks" / "ring-00000.png")
    other = read_plan(Journal(str(tmp_path / "runs")), plan_run(spec, tmp_path / "runs"))
    keys = [{unit.key for unit in one.units_of("quality")} for one in (plan, other)]
    assert len(masks_of(other)["psnr-outside"] & known) == 1
    assert keys[0] & keys[1] and keys[0] - keys[1]  # numbers over the whole picture are the same ones


def test_a_mask_that_changes_after_the_plan_measures_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    spec = spec_of(tmp_path, tiny_folder, scenarios=[LATENT], quality=OUTSIDE[:1])
    journal = Journal(str(tmp_path / "runs"))
    plan = read_plan(journal, plan_run(spec, tmp_path / "runs"))
    Image.new("L", (64, 64), 255).save(tmp_path / "masks" / "ring-00000.png")
    worker = run.worker(plan, journal, device="cpu")
    for kind in ("erase", "invert", "generate", "quality"):
        reports = [worker.run(unit) for unit in plan.pending(kind, journal)]
    assert sum(report.errors for report in reports) > 0
    keys = [unit.key for unit in plan.units_of("quality")]
    rows = [row for key in keys for row in journal.read("quality", key).to_pylist() if row["error"]]
    assert rows and all("changed since the manifest" in row["error"] and row["value"] is None for row in rows)


def test_a_forecast_names_masks_that_are_not_there(tmp_path: Path, tiny_folder: Path) -> None:
    import datetime as dt

    spec = spec_of(tmp_path, tiny_folder)
    (tmp_path / "masks" / "ring-00001.png").unlink()
    forecast = run.draft_plan(load_spec(spec), dt.datetime.now(dt.UTC))
    assert ["1 of 2 pictures" in problem.what for problem in forecast.missing] == [True]


def test_one_picture_cannot_have_two_regions(tmp_path: Path, tiny_folder: Path) -> None:
    spec = spec_of(tmp_path, tiny_folder)
    document = load_spec(spec).model_dump(mode="json", exclude_unset=True)
    write_corpus(str(tmp_path / "hoop"), "ring", 2, "audit", 2, regions=str(tmp_path / "others"))
    for path in (tmp_path / "others").iterdir():
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    document["concepts"].append({"name": "hoop", "phrase": "hoop"})
    document["corpus"].append({"url": str(tmp_path / "hoop"), "concept": "hoop", "regions": str(tmp_path / "others")})
    document["detectors"][0]["labels"]["hoop"] = ["FACE_MALE"]
    spec = tiny_spec(tmp_path, tiny_folder, **{name: document[name] for name in ("concepts", "corpus", "detectors")},
                     quality=OUTSIDE, scenarios=[LATENT])  # fmt: skip
    with pytest.raises(CorpusError, match="one picture has two different regions"):
        plan_run(spec, tmp_path / "runs")


def test_a_picture_that_is_all_region_has_no_number() -> None:
    meter = meters.build(QualitySpec(name="p", kind="psnr", where="outside-region"))
    flat = np.zeros((16, 16, 3), np.uint8)
    (reading,) = meter.read([Task(flat, flat, region=np.zeros((16, 16), bool))])
    assert reading.value is None and "outside the concept's region" in str(reading.error)
    plain = meters.build(QualitySpec(name="p", kind="psnr"))
    assert plain.instrument.instrument_id != meter.instrument.instrument_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"quality": [{"name": "q", "kind": "lpips", "where": "outside-region"}]},
            "a lpips instrument takes no 'where'",
        ),
        (
            {"corpus": "unmasked"},
            "quality.psnr-outside: measures outside the concept's region, and no corpus entry has",
        ),
        ({"scenarios": [TEXT]}, "quality.psnr-outside: .* no latent scenario makes such pictures"),
        ({"corpus": "inside"}, "corpus: the regions .* lie in .*, whose pictures they would be"),
        ({"corpus": "secret"}, "carries credentials"),
    ],
)
def test_a_region_that_could_not_be_measured_is_refused_in_the_spec(
    tmp_path: Path, tiny_folder: Path, change: dict[str, Any], message: str
) -> None:
    document = load_spec(spec_of(tmp_path, tiny_folder)).model_dump(mode="json", exclude_unset=True)
    entry = copy.deepcopy(document["corpus"][0])
    regions = {"unmasked": None, "inside": entry["url"] + "/masks", "secret": "s3://a:b@c/d"}
    if isinstance(change.get("corpus"), str):
        change = {"corpus": [{**entry, "regions": regions[change["corpus"]]}, *document["corpus"][1:]]}
    with pytest.raises(SpecError, match=message):
        parse_spec({**document, **change}, "test")
