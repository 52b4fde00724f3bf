"""A fill of the testbed as a concept: its scenes, its spec planned through the benchmark's scenarios, and a cut-down run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit import locations, run
from audit.corpus import ingest
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.plan.document import KINDS
from audit.spec.document import load_spec, parse_spec
from audit.testbed.scenes import sample_scene, write_corpus
from tests.flows.audits import WAIVED

SPEC = Path(__file__).parent.parent.parent / "deployments" / "specs" / "testbed-styles.yaml"
BENCHMARK_SCENARIOS = {
    "text", "adversarial-text", "embedding-whitebox", "embedding-blackbox", "latent-whitebox", "latent-blackbox",
}  # fmt: skip


def shipped(folder: Path, count: int = 16) -> dict[str, Any]:
    """The shipped spec on scenes below `folder`."""
    document = load_spec(SPEC).model_dump(mode="json")
    (likeness,) = (entry for entry in document["detectors"] if entry["kind"] == "style")
    for label, address in likeness["parameters"]["references"].items():
        fill = Path(address).name
        likeness["parameters"]["references"][label] = str(folder / "references" / fill)
        write_corpus(str(folder / "references" / fill), "square", 4, "calibration", fill=fill)
    for entry in document["corpus"]:
        striped = entry["concept"] == "striped"
        entry["url"] = str(folder / entry["concept"])
        write_corpus(
            entry["url"], "square" if striped else "arrow", count, "audit", fill="striped" if striped else None
        )
    return document


def test_a_corpus_of_one_fill_has_no_other(tmp_path: Path) -> None:
    regions = tmp_path / "regions"
    written = write_corpus(str(tmp_path / "striped"), "ring", 3, "audit", fill="striped", regions=str(regions))
    for name in (Path(url).name for url in written):
        scene = sample_scene("audit", int(name[5:10]), n_objects=1, required_class="ring")
        assert scene.objects[0].fill == "striped"
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "striped" / name)), scene.image)
        assert (np.array(Image.open(regions / name)) > 0).sum() == scene.objects[0].mask.sum()
    with pytest.raises(ValueError, match="unknown fill 'spotted'"):
        write_corpus(str(tmp_path), "ring", 1, "audit", fill="spotted")


def test_the_shipped_spec_plans_a_style_through_the_six_scenarios_of_the_benchmark(tmp_path: Path) -> None:
    spec = parse_spec(shipped(tmp_path), "styles")
    manifest = ingest.MANIFEST_SCHEMA.empty_table()
    batches = list(ingest.manifest(spec.corpus, spec.corpus_limits))
    manifest = manifest.from_batches(batches, schema=MANIFEST_SCHEMA)
    plan = run.unstored_plan(spec, "styles", "2026-01-01T00:00:00+00:00", manifest)
    target = [p.cell for p in plan.cells if p.cell.role == "target" and p.cell.control is None]
    assert {cell.scenario for cell in target} == BENCHMARK_SCENARIOS
    assert {instrument.kind for instrument in plan.instruments} == {"clip-zero-shot", "style"}
    rules = {(rule["detector"], rule["subject"]): rule["label"] for rule in plan.rules}
    assert rules["likeness", "striped"] == rules["prompts", "striped"] == "striped"
    assert ("likeness", "arrow") not in rules


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cut_down_run_measures_a_style_by_prompts_and_by_likeness(tmp_path: Path) -> None:
    document = shipped(tmp_path, 4)
    document["scenarios"] = [s for s in document["scenarios"] if s["name"] in ("text", "latent-whitebox")]
    for scenario in document["scenarios"]:
        scenario["cases"] = 4
    document |= {"neighbour_cases": 2, "controls": {**document["controls"], "cases": 2}}
    document["gate"] |= WAIVED
    del document["benign"]
    spec = parse_spec(document, "styles")
    root = str(tmp_path / "store")
    journal = run.open_journal(root)
    plan = run.plan(spec, journal, "cut", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "cut"))
    worker = run.worker(plan, journal, "cpu", 4)
    for kind in KINDS:
        for unit in plan.pending(kind, journal):
            assert worker.run(unit).errors == 0, unit
    result = run.conclude(journal, "cut", run.consolidate(journal, "cut", locations.database_path(root)))
    (backbone,) = (
        row for row in result.crr
        if (row.control, row.scenario, row.detector, row.concept) == ("backbone", "text", "prompts", "striped")
    )  # fmt: skip
    assert backbone.assessed == backbone.planned
    pairs = [row for row in result.judge_pairs if (row.first_detector, row.second_detector) == ("likeness", "prompts")]
    assert pairs and all(row.assessed_both > 0 for row in pairs if row.cell_id == backbone.cell_id)
