"""Filters in a whole audit: one set of pictures for both rates, blocked as an outcome of its own, and what fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.index.queries import read_result
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import Plan, read_plan
from audit.storage.journal import Journal
from audit.verdict.results import RunResult
from tests.flows.audits import WAIVED, finish_run, tiny_spec

CLIP = {"name": "clip-filter", "parameters": {"model": "testbed/judge", "cosine": 0.3, "templates": ["a {phrase}"]}}
WORDS = {"name": "prompt-filter", "parameters": {"words": ["RING", "blue"]}}
UCE = {"method": "uce"}
SCENARIOS = [
    {"name": "text", "cases": 6, "templates": ["a {phrase}", "a red {phrase}"], "sampler": {"steps": 2, "guidance": 3.0}},
    {"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1,
     "quality_gate": {"residual_max": 1e9, "psnr_min_db": 1e-9}},
]  # fmt: skip
SECTIONS: dict[str, Any] = {
    "defences": [
        {"name": "plain", "eraser": UCE},
        {"name": "worded", "eraser": UCE, "guards": [WORDS]},
        {"name": "both", "eraser": UCE, "guards": [WORDS, CLIP]},
    ],
    "scenarios": SCENARIOS,
    "detectors": [{"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}],
    "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.3}], **WAIVED},
    "unit_size": 40,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, RunResult]:
    folder = tmp_path_factory.mktemp("filtered")
    root = folder / "runs"
    run_id = finish_run(tiny_spec(folder, tiny_folder, **SECTIONS), root)
    journal = Journal(str(root))
    published = latest(database_path(str(root)).parent / "published")
    return read_plan(journal, run_id), journal, read_result(published, run_id)


def test_defences_that_differ_by_filters_alone_have_the_very_same_pictures(
    finished: tuple[Plan, Journal, RunResult],
) -> None:
    plan, _, result = finished
    images: dict[tuple[str, ...], dict[str, list[int]]] = {}
    cases = plan.cases.table().to_pylist()
    for planned in plan.cells:
        cell = planned.cell
        own = [row["image_id"] for row in cases if row["cell_id"] == cell.cell_id]
        images.setdefault((cell.role, cell.scenario, cell.subject, str(cell.control)), {})[cell.defence] = own
    for of_defence in images.values():
        if "both" in of_defence:
            assert of_defence["plain"] == of_defence["worded"] == of_defence["both"]
    assert not any(unit.identity.guards for unit in plan.units_of("generate"))
    rates = {(r.defence, r.scenario): r for r in result.crr if r.role == "target"}
    for scenario in ("text", "latent-whitebox"):
        plain = rates["plain", scenario]
        for name in ("worded", "both"):
            row = rates[name, scenario]
            assert (row.unfiltered_hits, row.unfiltered_assessed) == (plain.hits, plain.assessed)
