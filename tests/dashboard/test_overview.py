"""The overview's numbers are those of SQL on the index, and its verdicts the gate's."""

from __future__ import annotations

import dataclasses

import pytest

from audit.dashboard.context import Context
from audit.dashboard.links import StaticLinks
from audit.dashboard.site import answer
from tests.dashboard.html import Element, parse

# Of each system the newest run that was decided.
NEWEST = """
select r.system, v.run_id, v.status
from mart_verdicts as v inner join runs as r using (run_id)
where v.newest
qualify row_number() over (partition by r.system order by r.created_at desc) = 1
order by case v.status when 'FAIL' then 0 when 'INCONCLUSIVE' then 1 else 2 end, r.system
"""
CELLS = """
select d.concept, d.defence, d.scenario, d.detector, d.status, c.hits, c.assessed
from mart_decisions as d inner join mart_crr as c using (run_id, cell_id, detector)
where d.newest and d.side = 'crr' and d.run_id = ?
"""


def page(context: Context, **query: str) -> Element:
    found = answer(context, "overview", query)
    assert found.status == 200
    return parse(found.html)


def test_every_system_has_the_gate_s_newest_verdict_worst_first(context: Context) -> None:
    sections = page(context).all("section", cls="system")
    shown = [(s.all("h2")[0].all("a")[0].text, s.all("span", cls="badge")[0].text.split()[-1]) for s in sections]
    assert shown == [(system, status) for system, _, status in context.con.execute(NEWEST).fetchall()]
    assert len({status for _, status in shown}) > 1


def test_a_cell_shows_the_worst_judge_with_its_numbers(context: Context) -> None:
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    newest = context.con.execute(NEWEST).fetchall()
    for section, (_, run_id, _) in zip(page(context).all("section", cls="system"), newest, strict=True):
        wanted: dict[tuple[str, str, str], list[tuple[str, int, int]]] = {}
        for concept, defence, scenario, _, *rest in context.con.execute(CELLS, [run_id]).fetchall():
            wanted.setdefault((concept, defence, scenario), []).append(tuple(rest))
        shown = 0
        for table in section.all("table", cls="heat"):
            scenarios = [th.text for th in table.all("thead")[0].all("th")][2:]
            for row in table.all("tbody")[0].all("tr"):
                concept, defence = (th.text for th in row.all("th"))
                for scenario, cell in zip(scenarios, row.all("td"), strict=True):
                    decided = wanted[concept, defence, scenario]
                    status = min((d[0] for d in decided), key=order.index)
                    counts = {f"{hits}/{assessed}" for s, hits, assessed in decided if s == status}
                    assert cell.attributes["class"] == cell.all("strong")[0].text == status
                    assert cell.all("span", cls="number")[0].text in counts
                    shown += 1
        assert shown == len(wanted) == 12


def test_stale_and_waived_are_marked(context: Context) -> None:
    badges = {
        s.all("h2")[0].all("a")[0].text: [b.text for b in s.all("h2")[0].all("span", cls="badge")][1:]
        for s in page(context).all("section", cls="system")
    }
    assert badges == {
        "Painter": [],
        "Sketcher": ["waived: retention", "waived until 2026-12-28"],
        "Mural": ["stale", "waiver expired 2026-11-15"],
    }
    later = dataclasses.replace(context, stale_days=60)
    assert "stale" not in [b.text for b in page(later).all("span", cls="badge")]


def test_a_cell_that_waivers_covered_keeps_its_verdict_and_says_so(context: Context) -> None:
    for section in page(context).all("section", cls="system"):
        cells = [cell for table in section.all("table", cls="heat") for cell in table.all("td")]
        noted = {
            (cell.attributes["class"], cell.all("span", cls="judge")[-1].text) for cell in cells if "waive" in cell.text
        }
        others = {cell.attributes["class"] for cell in cells if "waive" not in cell.text}
        if section.all("a")[0].text == "Painter":
            assert not noted and "INCONCLUSIVE" in others
        else:
            end = {"Sketcher": "waived until 2026-12-28", "Mural": "waiver expired 2026-11-15"}[
                section.all("a")[0].text
            ]
            assert {note for _, note in noted} == {end} and others == {"PASS"}
            assert "PASS" not in {status for status, _ in noted}


def test_a_regression_stands_beside_the_verdict(context: Context) -> None:
    con = context.con
    run_id, other = con.execute("select run_id, compared_with from mart_verdicts where regression = 'FAIL'").fetchall()[
        0
    ]
    html = answer(context, "run", {"run": run_id}).html
    (line,) = (p for p in parse(html).all("p") if "as a regression gate against" in p.text)
    assert line.all("span", cls="badge")[0].attributes["class"] == "badge FAIL"
    assert line.all("a")[0].text == other and "the baseline released" in line.text


@pytest.mark.parametrize(
    ("query", "systems", "cells"),
    [
        ({"system": "Mural"}, 1, 12),
        ({"concept": "ring"}, 3, 18),
        ({"system": "Painter", "concept": "ring", "judge": "clip"}, 1, 6),
    ],
)
def test_filters_choose(context: Context, query: dict[str, str], systems: int, cells: int) -> None:
    found = page(context, **query)
    assert len(found.all("section", cls="system")) == systems
    assert sum(len(table.all("td")) for table in found.all("table", cls="heat")) == cells
    chosen = {select.attributes["name"]: select.all("option") for select in found.all("select")}
    for name, value in query.items():
        assert [o.attributes["value"] for o in chosen[name] if "selected" in o.attributes] == [value]


@pytest.mark.parametrize("query", [{"system": "nobody"}, {"judge": "clip'--"}, {"colour": "red"}, {"status": "OPEN"}])
def test_a_value_that_names_nothing_is_a_page_with_a_way_back(context: Context, query: dict[str, str]) -> None:
    found = answer(context, "overview", query)
    assert found.status == 404
    assert "./" in [a.attributes["href"] for a in parse(found.html).all("main")[0].all("a")]


def test_a_static_page_has_links_and_no_form(context: Context) -> None:
    static = dataclasses.replace(context, links=StaticLinks())
    found = page(static)
    assert not found.all("form") and page(context).all("form")
    assert all("?" not in a.attributes["href"] for a in found.all("a"))
    assert found.all("p", cls="chips")
