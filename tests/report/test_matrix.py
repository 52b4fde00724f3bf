"""The matrix of defences and scenarios: rates and decisions of each cell, the worst judge first, with links to the details."""

from __future__ import annotations

import dataclasses

import pytest

from audit.records import Control, Role
from audit.report import html, markdown
from audit.report.matrix import Matrix, matrices
from audit.report.view import Index
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import RunResult
from tests.report import runs
from tests.report.page import Element, rendered


def two_concepts() -> RunResult:
    """Concept cross holds everywhere; ring comes back through the text, and its third scenario has one defence alone."""
    builder = runs.Builder()
    for concept, hits in (("cross", 0), ("ring", 40)):
        for scenario in ("text", "latent-whitebox"):
            builder.cell("none", scenario, 48, 48, 48, concept=concept, role=Role.CONTROL, control=Control.BACKBONE)
        for defence in ("uce", "uce+sld"):
            builder.cell(defence, "text", hits, 48, 48, concept=concept)
            builder.cell(defence, "latent-whitebox", 0, 46, 48, concept=concept)
    builder.cell("uce", "adversarial", 0, 0, 48)
    return builder.result(runs.CHECKS)


def with_decisions(run: RunResult, **statuses: VerdictStatus) -> RunResult:
    """The run with other decisions, by the defence, scenario or detector that they are of."""
    named = {name.replace("_", "-"): status for name, status in statuses.items()}
    decisions = tuple(
        dataclasses.replace(
            decision,
            status=next(
                (named[key] for key in (decision.detector, decision.scenario, decision.defence) if key in named),
                decision.status,
            ),
        )
        for decision in run.verdict.decisions
    )
    return dataclasses.replace(run, verdict=dataclasses.replace(run.verdict, decisions=decisions))


def table_of(page: Element, place: int = 0) -> list[list[Element]]:
    """The cells of the rows of a matrix, its head's first."""
    rows = page.named("glance").all("table")[place].all("tr")
    return [[part for part in row.parts if isinstance(part, Element)] for row in rows]


def test_every_cell_has_a_rate_with_its_counts_and_a_verdict_in_symbol_and_word() -> None:
    head, backbone, defended = table_of(rendered(runs.failing()))
    assert [cell.words() for cell in head] == ["Defence", "text", "latent-whitebox"]
    assert [cell.words() for cell in backbone] == [
        "none (un-erased)",
        "control 97.9 % 94/96 classifier 99.0 % 95/96 clip-judge",
        "control 95.8 % 46/48 classifier 97.9 % 47/48 clip-judge",
    ]
    assert [cell.words() for cell in defended] == [
        "uce-ring",
        "✓ PASS 1.0 % 1/96 clip-judge 0.0 % 0/96 classifier",
        "✕ FAIL 97.8 % 45/46 2 unassessed clip-judge 95.7 % 44/46 2 unassessed classifier",
    ]
    assert [
        cell.all("span", "badge")[0].is_a(status) for cell, status in zip(defended[1:], ("PASS", "FAIL"), strict=True)
    ]


def test_the_numbers_are_those_of_the_rates() -> None:
    index = Index(two_concepts())
    for matrix in matrices(index):
        entries = {
            (name, scenario, entry.judge): entry
            for name, cells in matrix.rows
            for scenario, cell in zip(matrix.scenarios, cells, strict=True)
            for entry in cell.entries
        }
        rows = [row for row in index.targets() if row.concept == matrix.concept]
        assert len(rows) == len(entries)
        for row in rows:
            entry = entries["none (un-erased)" if row.defence == "none" else row.defence, row.scenario, row.detector]
            decision = index.decisions.get((row.cell_id, row.detector))
            assert entry.counts == f"{row.hits}/{row.assessed}" and entry.unassessed == row.unassessed
            assert entry.rate == (f"{100 * row.hits / row.assessed:.1f} %" if row.assessed else "n/a")
            assert entry.status == (decision.status.value if decision else "")


def judges(matrix: Matrix, place: int) -> list[tuple[str, str]]:
    _, cells = matrix.rows[place]
    return [(entry.judge, entry.status) for entry in cells[0].entries]


@pytest.mark.parametrize("worse", ["clip-judge", "classifier"])
def test_the_worst_judge_is_first(worse: str) -> None:
    better = "classifier" if worse == "clip-judge" else "clip-judge"
    statuses = {worse.replace("-", "_"): VerdictStatus.FAIL, better.replace("-", "_"): VerdictStatus.PASS}
    run = with_decisions(runs.failing(), **statuses)
    (matrix,) = matrices(Index(run))
    assert judges(matrix, 1) == [(worse, "FAIL"), (better, "PASS")]
    words = table_of(rendered(run))[2][1].words()
    assert words.index("✕ FAIL") < words.index(worse) < words.index("✓ PASS") < words.index(better), "each has its own"


def test_of_judges_that_agree_the_one_that_saw_more_is_first_and_on_the_unerased_model_the_one_that_saw_less() -> None:
    (matrix,) = matrices(Index(runs.failing()))
    assert [name for name, _ in judges(matrix, 0)] == ["classifier", "clip-judge"]
    assert [name for name, _ in judges(matrix, 1)] == ["clip-judge", "classifier"]


def test_the_concept_with_the_worst_decision_is_first_and_what_was_not_planned_says_so() -> None:
    run = two_concepts()
    assert run.verdict.status is VerdictStatus.FAIL
    first, second = matrices(Index(run))
    assert [(matrix.concept, matrix.status) for matrix in (first, second)] == [
        ("ring", "FAIL"),
        ("cross", "INCONCLUSIVE"),
    ]
    assert [name for name, _ in first.rows] == ["none (un-erased)", "uce", "uce+sld"]
    page = rendered(run)
    assert [title.words() for title in page.named("glance").all("h3")] == ["✕ FAIL ring", "? INCONCLUSIVE cross"]
    _, backbone, eraser, guarded = table_of(page)
    assert [row[3].words() for row in (backbone, guarded)] == ["not planned"] * 2
    assert eraser[3].words().startswith("? INCONCLUSIVE n/a 0/0 48 unassessed")


def test_rows_and_columns_have_heads_and_each_cell_leads_to_its_details() -> None:
    page = rendered(two_concepts())
    ids = [element.attributes["id"] for element in page.everything() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    linked = 0
    for place, concept in enumerate(("ring", "cross")):
        head, *rows = table_of(page, place)
        assert all((cell.tag, cell.attributes["scope"]) == ("th", "col") for cell in head)
        for name, *cells in rows:
            assert (name.tag, name.attributes["scope"]) == ("th", "row")
            for scenario, cell in zip(head[1:], cells, strict=True):
                assert cell.attributes["data-label"] == scenario.words(), "on a phone it stands beside the cell"
                for link in cell.all("a"):
                    target = page.named(link.attributes["href"].removeprefix("#"))
                    assert [part.words() for part in target.all("th")] == [scenario.words(), name.words()]
                    assert target in [row for table in page.named("crr").all("table") for row in table.all("tr")]
                    linked += 1
        assert concept in page.named("crr").words()
    assert linked == 2 * 6 + 1, "every planned cell"


def test_detectors_that_do_not_judge_stay_out_of_the_matrix() -> None:
    run = runs.failing()
    gate = {**runs.SPEC["gate"], "judges": ["clip-judge"]}
    page = rendered(dataclasses.replace(run, spec={**runs.SPEC, "gate": gate}))
    assert table_of(page)[2][1].words() == "✓ PASS 1.0 % 1/96", "a judge alone is not named"


def test_the_text_formats_have_the_same_matrix() -> None:
    text = markdown.render(runs.failing()).replace("\\", "")
    assert "## At a glance" in text
    assert "| Defence | text | latent-whitebox |" in text
    assert (
        "| uce-ring | ✓ PASS 1/96 (1.0 %) clip-judge; ✓ PASS 0/96 (0.0 %) classifier | ✕ FAIL 45/46 (97.8 %, 2 un"
        in text
    )
    assert (
        "- ring: Case 0 of latent-whitebox, the first hit in the cell with the highest rate (45 of 46, 97.8 %)." in text
    )


def test_a_run_without_audited_cells_has_no_matrix() -> None:
    assert matrices(Index(runs.empty())) == ()
    assert 'id="glance"' not in html.render(runs.empty(), runs.picture)
