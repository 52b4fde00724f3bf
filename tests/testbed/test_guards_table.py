"""The guards' table: its cases, one small measured cell that is kept, and how it is written down."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from audit import identity
from audit.diffusion.pipeline import load_pipeline
from audit.spec.sections import Guard
from audit.testbed import guard_cells, guards_table
from audit.testbed.counting import HERE
from audit.testbed.guard_cells import Bench, cases_of
from audit.testbed.guard_defences import Defence, defences, guard
from audit.testbed.guard_goals import goals
from audit.testbed.markers import GUARDS, replaced
from audit.testbed.peak_memory import peak_memory
from audit.weights.references import resolve_model


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
    assert {name for row in rows for name in (g.name for g in row.guards)} == set(guards.GUARDS.names())
    assert rows[0] == Defence("none", None, ())


def test_a_cell_is_measured_once_and_written_with_its_denominators(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 5)
    monkeypatch.setattr(guard_cells, "PASSES", 2)
    row = Defence("irece", None, (guard("irece", noise="level"),))
    cells = guards_table.Cells(bench, 2, 1, tmp_path / "cells")
    numbers = cells.cell(row, "latent-whitebox")
    assert numbers["target"]["assessed"] == numbers["target"]["changed"] == 2
    assert numbers["target"]["acted"] == [2]
    assert numbers["target"]["extra_calls"] == 1 and numbers["target"]["calls"] == 6
    assert 5 < numbers["target"]["psnr"] < 60 and numbers["benign"]["assessed"] == 2

    def again(*_: Any) -> Any:
        raise AssertionError("measured twice")

    monkeypatch.setattr(guards_table, "measure", again)
    kept = guards_table.Cells(bench, 2, 1, tmp_path / "cells").cell(row, "latent-whitebox")
    assert kept == numbers
    assert cells.cell(row, "latent-blackbox") == numbers  # one cell: the backbone inverts for the backbone
    assert not cells.has(row, "text")
    text = guards_table.table([(row, "latent-whitebox", numbers)])
    assert "/2 (" in text and "| 2/2 | " in text and "(n=2)" in text and text.count("\n") == 2
    header, _, line = text.splitlines()
    assert all(f"benign kept, {judge}" in header for judge in guards_table.JUDGES)
    assert header.count("|") == line.count("|")


def test_each_guard_of_a_stack_is_counted_for_itself_and_untouched_pictures_raise_no_psnr(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 4)
    monkeypatch.setattr(guard_cells, "PASSES", 1)
    # The first guard's gate is out of reach, so it never acts; the second one always does.
    stack = (guard("irece", noise="level", gate=1.0), guard("sld", preset="max"))
    row = Defence("shut + sld", None, stack)
    numbers = guard_cells.measure(bench, row, "text", 2)
    assert numbers["target"]["acted"] == [0, 2] and numbers["target"]["changed"] == 2
    assert "| 0/2, 2/2 |" in guards_table.table([(row, "text", numbers)])
    shut = guard_cells.measure(bench, Defence("shut", None, stack[:1]), "text", 2)
    assert shut["target"]["acted"] == [0] and shut["target"]["changed"] == 0 and shut["target"]["assessed"] == 2
    assert shut["target"]["psnr"] is None and "n/a (n=0)" in guards_table.table([(row, "text", shut)])


def test_guards_are_built_once_and_before_the_clock_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 2)
    monkeypatch.setattr(guard_cells, "BATCH", 1)
    happened: list[str] = []
    real = guard_cells.build

    def build(*given: Any) -> Any:
        happened.append("built")
        return real(*given)

    def perf_counter() -> float:
        happened.append("clock")
        return float(len(happened))

    monkeypatch.setattr(guard_cells, "build", build)
    monkeypatch.setattr(guard_cells, "time", types.SimpleNamespace(perf_counter=perf_counter))
    row = Defence("negative-prompt", None, (guard("negative-prompt"),))
    guard_cells.generate(bench, row, "text", cases_of("ring", 2), "target")
    assert happened == ["built", "clock", "clock"]


def test_a_picture_that_shows_nothing_is_not_assessed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_cells, "STEPS", 2)
    real = type(bench.pipeline).decode_latents

    def spoilt(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        images = real(pipeline, latents)
        images[0], images[1, 0, 3, 3] = -1.0, torch.nan
        return images

    monkeypatch.setattr(type(bench.pipeline), "decode_latents", spoilt)
    made = guard_cells.generate(bench, Defence("none", None, ()), "text", cases_of("ring", 3), "target")
    assert [image is None for image in made.images] == [True, True, False]
    found = guard_cells.compared(bench.judges, cases_of("ring", 3), made, made, masked=False)
    assert found["assessed"] == 1


@pytest.mark.parametrize("changed", [*guard_cells.MAKES, *guard_cells.COMPARES])
def test_a_cell_is_measured_anew_when_code_that_makes_or_compares_pictures_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    row, real = Defence("none", None, ()), identity.file_sha256
    cell, latents = bench.key(row, "text", 2), bench._latents_key(2, None, "target")
    guard_cells.sources.cache_clear()
    monkeypatch.setattr(
        identity, "file_sha256", lambda path: "other" if path.as_posix().endswith(f"audit/{changed}") else real(path)
    )
    assert bench.key(row, "text", 2) != cell
    assert (bench._latents_key(2, None, "target") != latents) is (changed in guard_cells.MAKES)
    guard_cells.sources.cache_clear()


def test_the_page_names_what_is_not_measured_and_how_many_scenes_the_masks_saw(bench: Bench) -> None:
    listed = defences("ring")
    judged = {
        judge: dict.fromkeys(("hits", "hits_before", "other_before", "other_kept"), 1) for judge in guards_table.JUDGES
    }
    part = {"assessed": 2, "changed": 0, "acted": [], "psnr": None, "ssim": None, "gmsd": None, **judged}
    part |= {"seconds": 1.0, "calls": 1.0, "extra_calls": 0.0, "peak_mb": None}
    rows = [
        (listed[0], scenario, {"cases": 2, "target": part, "benign": part}) for scenario in ("text", "latent-whitebox")
    ]
    waiting = guards_table.not_measured(listed, rows, ["uce"])
    assert waiting[0] == "- none: latent-blackbox"
    assert "- safree + egloce: text, latent-whitebox, latent-blackbox" in waiting
    assert any(
        line.startswith("- uce: ") and line.endswith("uce is not there yet (make testbed-erased)") for line in waiting
    )
    text = guards_table.page(bench, rows, {}, "MASKS", (2, 1, 7), waiting)
    assert "Not measured yet:" in text and waiting[0] in text and "on 7 scenes noised to t*" in text


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


def counted(hits: int, before: int, kept: int, psnr: float) -> dict[str, Any]:
    seen = {"hits": hits, "hits_before": before, "other_kept": kept, "other_before": 10}
    return {"target": {"assessed": 10, "psnr": psnr, "judge": seen}}


def test_goals_are_met_only_where_the_numbers_reach_them() -> None:
    irece, egloce, safree = (guard(name) for name in ("irece", "egloce", "safree"))
    rows = [
        (Defence("none", None, ()), "text", counted(9, 9, 10, 60.0)),
        (Defence("safree", None, (safree,)), "text", counted(8, 9, 10, 40.0)),
        (Defence("irece", None, (irece,)), "latent-whitebox", counted(5, 10, 7, 26.0)),
        (Defence("weak", None, (irece,)), "latent-whitebox", counted(8, 10, 8, 24.9)),
        (Defence("held", "esd-x", (irece,)), "latent-whitebox", counted(0, 9, 8, 30.0)),
        (Defence("control", None, (guard("irece", mask="random"),)), "latent-whitebox", counted(0, 10, 8, 30.0)),
        (Defence("egloce", None, (egloce,)), "text", counted(5, 9, 8, 30.0)),
        (Defence("both", None, (safree, egloce)), "text", counted(5, 9, 8, 30.0)),
        (Defence("alone", "esd-x", (egloce,)), "text", counted(0, 1, 8, 30.0)),
        (Defence("on nothing", "uce", (egloce,)), "text", counted(0, 0, 8, 30.0)),
    ]
    under = {
        "egloce": rows[0][2],
        "both": rows[1][2],
        "alone": counted(1, 1, 8, 30.0),
        "on nothing": counted(0, 0, 8, 30.0),
    }
    assert goals(rows, under, ["judge"]) == [
        "- irece, judge: CRR 1.00 to 0.50 (met), 26.0 dB (met), other object kept 0.70 (missed)",
        "- weak, judge: CRR 1.00 to 0.80 (missed), 24.9 dB (missed), other object kept 0.80 (met)",
        "- held, judge: no claim, 0.90 came back unguarded",
        "- egloce, judge: CRR 0.90 (none) to 0.50 (missed)",
        "- both, judge: CRR 0.80 (safree) to 0.50 (met)",
        "- alone, judge: CRR 0.10 (esd-x) to 0.00 (met)",
        "- on nothing, judge: no claim, uce gave nothing back",
    ]
