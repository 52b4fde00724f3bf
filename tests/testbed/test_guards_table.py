"""The guards' table: its cases, one small measured cell that is kept, and how it is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from audit.backbones import load_pipeline
from audit.model_refs import resolve_model
from audit.spec import Guard
from audit.testbed import guard_cells, guards_table
from audit.testbed.counting import HERE
from audit.testbed.guard_cells import Bench, cases_of, peak_memory
from audit.testbed.guard_defences import Defence, defences, guard
from audit.testbed.markers import GUARDS, replaced


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("table")
    pipeline = load_pipeline(resolve_model("testbed"), torch.device("cpu"))
    return Bench(pipeline, guards_table.judges_on("cpu"), folder / "erased", folder / "build", "ring")


def test_cases_show_what_they_say() -> None:
    for case in cases_of("ring", 20):
        assert case.wanted == "ring" and case.other != "ring"
        assert 0 < (~case.outside()).sum() < 64 * 64 / 2
        assert "ring" in case.prompt() and case.other in case.prompt()
    for case in cases_of("ring", 20, benign=True):
        assert "ring" not in [thing.cls for thing in case.scene.objects] and case.wanted != case.other


def test_inverted_latents_that_are_kept_belong_to_their_concept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 4)
    monkeypatch.setattr(guard_cells, "PASSES", 1)
    other = Bench(bench.pipeline, bench.judges, bench.erased, bench.folder, "star")
    ring, star = (one.latents(cases_of(one.concept, 2), None, "target") for one in (bench, other))
    assert not torch.allclose(ring, star)
    assert torch.equal(ring, bench.latents(cases_of("ring", 2), None, "target"))


def test_every_row_has_a_name_of_its_own_and_guards_that_resolve(bench: Bench) -> None:
    from audit import guards

    rows = defences("ring", [Guard(name="irece", parameters={"tau": 0.6})])
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        for one in row.guards:
            guards.resolve(one, bench.described)
    assert {name for row in rows for name in (g.name for g in row.guards)} == set(guards.NAMES)
    assert rows[0] == Defence("none", None, ())


def test_a_cell_is_measured_once_and_written_with_its_denominators(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 5)
    monkeypatch.setattr(guard_cells, "PASSES", 2)
    row = Defence("irece", None, (guard("irece", noise="level"),))
    cells = guards_table.Cells(bench, 2, tmp_path / "cells.json")
    numbers = cells.cell(row, "latent-whitebox")
    assert numbers["target"]["assessed"] == numbers["target"]["acted"] == 2
    assert numbers["target"]["extra_calls"] == 1 and numbers["target"]["calls"] == 6
    assert 5 < numbers["target"]["psnr"] < 60 and numbers["benign"]["assessed"] == 2

    def again(*_: Any) -> Any:
        raise AssertionError("measured twice")

    monkeypatch.setattr(guards_table, "measure", again)
    kept = guards_table.Cells(bench, 2, tmp_path / "cells.json").cell(row, "latent-whitebox")
    assert kept == numbers
    text = guards_table.table([(row, "latent-whitebox", numbers)])
    assert "/2 (" in text and "2/2 |" in text and text.count("\n") == 2


def test_masks_are_judged_beside_random_ones(bench: Bench) -> None:
    text = guards_table.localisation(bench, [guard("irece", layers="up", tau=0.5, t_star=401)], 6)
    *_, iou, chance, area, _ = (cell.strip() for cell in text.splitlines()[-1].split("|"))
    assert float(iou) > 2 * float(chance) and 0 < float(area) < 1


def test_the_readme_has_a_place_for_the_table() -> None:
    for name in ("README.md", "card.md.txt"):
        assert "x y z" in replaced((HERE / name).read_text(), GUARDS, "x y z")


def test_peak_memory_belongs_to_the_block() -> None:
    with peak_memory(torch.device("cpu")) as large:
        torch.ones(64, 1024, 1024).sum().item()  # 256 MB
    with peak_memory(torch.device("cpu")) as small:
        pass
    if large and small:
        assert large[0] > small[0] + 100


def test_what_tuning_wrote_becomes_a_row(tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    path.write_text("guard: {name: irece, parameters: {tau: 0.6}}\nevidence: {}\n")
    assert guards_table.tuned_guards([path]) == [Guard(name="irece", parameters={"tau": 0.6})]
