"""The benchmark's blocks of the testbed's page: concept by concept, one eraser alone, and two backbones side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit.errors import SpecError, StoreError
from audit.report import json_report
from audit.report.view import Index
from audit.verdict.results import RunResult
from deployments.testbed_page import architectures, benchmark, readings
from deployments.testbed_page.__main__ import written
from deployments.testbed_page.concepts import by_concept, neighbours_kept
from deployments.testbed_page.findings import findings, guarded
from tests.report.test_benchmark import CIFAR, crr, result

ESD, LORA = {"method": "esd-x", "parameters": {}}, {"method": "esd-x", "parameters": {"lora_rank": 8}}
SD3_DEFENCES: list[dict[str, Any]] = [
    {"name": "esd-x", "eraser": ESD, "guards": []},
    {"name": "esd-x-lora", "eraser": LORA, "guards": []},
    {"name": "esd-x+irece", "eraser": ESD, "guards": [{"name": "irece"}]},
    {"name": "irece", "eraser": None, "guards": [{"name": "irece"}]},
]
# hits of ten cases for each concept, by defence and scenario
SD3_HITS = {
    ("none", "text"): 8, ("esd-x", "text"): 1, ("esd-x-lora", "text"): 5, ("esd-x+irece", "text"): 1,
    ("none", "latent-whitebox"): 10, ("esd-x", "latent-whitebox"): 10, ("esd-x-lora", "latent-whitebox"): 10,
    ("esd-x+irece", "latent-whitebox"): 2, ("irece", "latent-whitebox"): 7,
}  # fmt: skip


def second(hits: dict[tuple[str, str], int] = SD3_HITS, **changes: Any) -> RunResult:
    """A run on the second backbone, which has one of the paper's erasers."""
    rows = [
        crr(number, concept, *way, of, 10, 10)
        for number, (concept, (way, of)) in enumerate((c, item) for c in CIFAR for item in hits.items())
    ]
    base = result("testbed")
    spec = {**base.spec, "backbone": "testbed/sd3", "defences": SD3_DEFENCES}
    return dataclasses.replace(base, run_id="second", spec=spec, crr=tuple(rows), **changes)


def line(text: str, *starts: str) -> list[str]:
    (found,) = [one for one in text.splitlines() if one.startswith(f"| {' | '.join(starts)} |")]
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def test_concepts_weigh_the_same_and_the_extremes_are_named() -> None:
    base = result("testbed")
    hits = {"airplane": (10, 10), "bird": (0, 90), "cat": (0, 0)}
    rows = [crr(n, concept, "esd", "text", *of, 100) for n, (concept, of) in enumerate(hits.items())]
    table = by_concept(Index(dataclasses.replace(base, crr=tuple(rows))))
    # the mean of 100 % and 0 %, although 10 of 100 assessed cases were hits; nothing is known of the cat
    assert table.rows == (("esd", "text", "50.0 %", "0.0 % bird", "100.0 % airplane", "10/10", "0/90", "0/0"),)
    assert [column.label for column in table.columns][-3:] == ["airplane", "bird", "cat"]
    nothing = by_concept(Index(dataclasses.replace(base, crr=tuple(rows[2:]))))
    assert nothing.rows[0][2:5] == ("n/a", "n/a", "n/a")


def test_what_neighbours_keep_is_pooled_over_concepts() -> None:
    base = result("testbed")

    def beside(number: int, concept: str, defence: str, hits: int) -> Any:
        return dataclasses.replace(
            crr(number, concept, defence, "text", hits, 10, 10), subject="bicycle", role="neighbour", control=None
        )

    rows = (beside(0, "cat", "none", 10), beside(1, "dog", "none", 10), beside(2, "cat", "esd", 5))
    table = neighbours_kept(Index(dataclasses.replace(base, crr=(*rows, beside(3, "dog", "esd", 4)))))
    assert [row[0] for row in table.rows] == ["no eraser", "esd"]
    assert table.rows[0][1].startswith("1.00 = 20/20") and table.rows[1][1].startswith("0.45 = 9/20")
    assert table.rows[1][2].startswith("0.45 (")
    assert not neighbours_kept(Index(base)).rows


def test_a_guard_is_compared_with_the_same_eraser_and_not_with_another_of_the_family() -> None:
    assert guarded(second().spec) == {"esd-x+irece": "esd-x", "irece": "none"}
    assert guarded(second().spec, "egloce") == {}
    said = " ".join(readings.section(Index(second())).bullets)
    assert "irece on esd-x lowers latent-whitebox: 100.0 % without it, 20.0 % with it." in said
    assert "irece on no eraser lowers latent-whitebox: 100.0 % without it, 70.0 % with it." in said


def shown(of: RunResult, begins: str) -> dict[str, bool]:
    (finding,) = [found for found in findings(Index(of)) if found.claim.startswith(begins)]
    return {one.defence: one.holds for one in finding.shown}


def test_each_finding_names_the_defences_that_show_it() -> None:
    assert shown(second(), "erasers hold") == {"esd-x": True, "esd-x-lora": False}  # 50 % of 80 % is more than half
    assert shown(second(), "white-box latents") == {"esd-x": True, "esd-x-lora": True}
    assert shown(second(), "IRECE restores") == {"esd-x+irece": True, "irece": False}
    assert shown(second(), "learned embeddings") == {}
    more = SD3_HITS | {
        ("esd-x", "embedding-whitebox"): 6, ("esd-x", "embedding-blackbox"): 3, ("esd-x-lora", "embedding-whitebox"): 6,
        ("esd-x-lora", "embedding-blackbox"): 7, ("esd-x", "latent-blackbox"): 10,
    }  # fmt: skip
    assert shown(second(more), "learned embeddings") == {"esd-x": True, "esd-x-lora": False}  # 60 beside 50 overlaps
    assert shown(second(more), "embeddings learned") == {"esd-x": True, "esd-x-lora": False}
    assert shown(second(more), "black-box latents") == {"esd-x": False}


@pytest.mark.parametrize("text", [0, None])
def test_a_backbone_that_draws_nothing_shows_no_erasure(text: int | None) -> None:
    """Nothing is less than half of nothing, and no finding is made of cells that were not assessed."""
    hits = {key: of for key, of in SD3_HITS.items() if key != ("none", "text")}
    of = second(hits | ({("none", "text"): text} if text is not None else {}))
    assert shown(of, "erasers hold") == {}


def test_a_run_with_one_of_the_papers_erasers_has_a_block() -> None:
    text = benchmark.block(second())
    pooled, each = (one for one in text.splitlines() if one.startswith("| esd-x | text |"))
    assert "| 10.0 % |" in pooled and "| 10 / 100 / 100 | 26.5 % |" in pooled
    assert each.count("| 1/10 ") == len(CIFAR) and "| 10.0 % airplane |" in each
    assert "nothing is said to be reproduced" in text
    with pytest.raises(SpecError, match="nothing that M-ErasureBench reports"):
        benchmark.block(dataclasses.replace(second(), spec={**second().spec, "defences": SD3_DEFENCES[3:]}))


def first() -> RunResult:
    """A run on the first backbone, whose ESD has the name that it has on the second."""
    base = result("testbed", hits=27)
    named = [{**entry, "name": "esd-x"} if entry["name"] == "esd" else entry for entry in base.spec["defences"]]
    rows = tuple(dataclasses.replace(row, defence="esd-x" if row.defence == "esd" else row.defence) for row in base.crr)
    return dataclasses.replace(base, run_id="first", crr=rows, spec={**base.spec, "defences": named})


def test_two_backbones_stand_side_by_side() -> None:
    text = architectures.block(first(), second())
    assert text.startswith("Runs `first` and `second`.")
    heads = line(text, "Finding of the paper")
    assert heads[1:] == ["testbed", "testbed/sd3"]
    erasers = next(row for row in text.splitlines() if row.startswith("| Erasers hold"))
    assert "holds: esd-x 96.0 % → 27.0 %" in erasers
    assert "holds: esd-x 80.0 % → 10.0 %; does not hold: esd-x-lora 80.0 % → 50.0 %" in erasers
    learned = next(row for row in text.splitlines() if row.startswith("| Learned embeddings"))
    assert learned.count("not measured") == 2
    both = line(text, "esd-x", "latent-whitebox")
    assert both[2] == "27.0 %" and both[5] == "100.0 %" and both[-1] == "apart"
    none = line(text, "no eraser", "text")
    assert none[4] == "960 / 1000 / 1000" and none[7] == "80 / 100 / 100"
    assert (
        "| uce | text |" not in text and "esd-x-lora | text |" not in text
    )  # what one backbone has compares with nothing


def test_a_cell_that_was_not_assessed_is_neither_apart_nor_near() -> None:
    of = second()
    lost = tuple(dataclasses.replace(row, assessed=0, hits=0) if row.defence == "esd-x" else row for row in of.crr)
    text = architectures.block(first(), dataclasses.replace(of, crr=lost))
    assert line(text, "esd-x", "text")[5] == "n/a" and line(text, "esd-x", "text")[-1] == "n/a"


def test_a_run_whose_storage_is_elsewhere_is_read_from_its_json_report(tmp_path: Path) -> None:
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path, of in zip(paths, (first(), second()), strict=True):
        path.write_text(json_report.render(of), encoding="utf-8")
    assert written("architectures", str(paths[0]), beside=str(paths[1])) == architectures.block(first(), second())
    paths[1].write_bytes(b"\xff")
    for missing in (paths[1], tmp_path / "none.json"):
        with pytest.raises(StoreError, match="cannot be read") as caught:
            written("architectures", str(paths[0]), beside=str(missing))
        assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "beside", "message"),
    [("architectures", None, "compares two runs"), ("benchmark", "other", "is of one run")],
)
def test_a_block_of_one_run_takes_no_second(name: str, beside: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        written(name, str(tmp_path), beside=beside)


def test_the_page_has_a_place_for_every_block() -> None:
    from audit.testbed.markers import replaced
    from deployments.testbed_page.__main__ import ARCHITECTURES, BLOCKS, README

    page = README.read_text()
    names: Sequence[str] = [*BLOCKS, ARCHITECTURES]
    for name in names:
        assert "fresh" in replaced(page, f"{name}-table", "fresh")
