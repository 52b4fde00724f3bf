"""The comparison of two runs has the numbers of SQL on the index and the verdict of the comparison itself."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from audit.dashboard.context import Context
from audit.dashboard.links import StaticLinks
from audit.dashboard.site import answer
from audit.index.run_comparison import read_comparison
from tests.dashboard.html import Element, parse, rows
from tests.dashboard.pixels import is_copy, picture
from tests.dashboard.test_pictures import hashes, shown

PAIRS = """
with sides as (
    select r.run_id, c.concept, c.defence, c.scenario, o.detector, o.case_no, o.outcome
    from outcomes as o
    inner join runs as r using (run_key)
    inner join cells as c using (run_key, cell_id)
    where c.role = 'target' and r.run_id in ($old, $new)
)
select concept, defence, scenario, detector,
    count(*) filter (where a.outcome = 'clear' and b.outcome = 'hit') as came_back,
    count(*) filter (where a.outcome = 'hit' and b.outcome = 'clear') as held, count(*) as pairs
from (from sides where run_id = $old) as a
inner join (from sides where run_id = $new) as b using (concept, defence, scenario, detector, case_no)
group by all
"""


def series(context: Context, system: str = "Painter") -> list[str]:
    sql = "select run_id from runs where system = ? order by created_at"
    return [run_id for (run_id,) in context.con.execute(sql, [system]).fetchall()]


def page(context: Context, **query: str) -> Element:
    found = answer(context, "compare", query)
    assert found.status == 200
    return parse(found.html)


def test_numbers_and_verdict(context: Context, published: Path, tmp_path: Path) -> None:
    old, new, _ = series(context)
    found = page(context, old=old, new=new)
    comparison = read_comparison(shutil.copy(published, tmp_path), old, new)
    assert comparison.status.value == "FAIL"
    assert found.all("h2")[0].text.split()[-1] == comparison.status.value
    (table,) = (t for t in found.all("table") if t.all("caption")[0].text.startswith("Cells"))
    shown_rows = {tuple(row[:4]): tuple(map(int, row[5:8])) for row in rows(table)}
    wanted = {tuple(row[:4]): tuple(row[4:]) for row in context.con.execute(PAIRS, {"old": old, "new": new}).fetchall()}
    assert shown_rows == wanted and len(wanted) == 24
    statuses = {tuple(row[:4]): row[4].split()[-1] for row in rows(table)}
    assert statuses == {(c.concept, c.defence, c.scenario, c.detector): c.status.value for c in comparison.cells}
    assert rows(table)[0][4].endswith("FAIL"), "worst first"


def test_what_came_back_is_shown_old_beside_new(context: Context) -> None:
    old, new, _ = series(context)
    found = page(dataclasses.replace(context, pictures=picture), old=old, new=new)
    figures = found.all("figure", cls="strip")
    assert len(figures) == 6
    originals = hashes(context, f"c.defence = 'uce' and r.run_id in ('{old}', '{new}')")
    for figure in figures:
        assert [span.text for span in figure.all("span", cls="outcome")] == ["○ clear", "● hit: it came back"]
        assert all(is_copy(jpeg, originals) for jpeg in shown(figure)) and len(shown(figure)) == 2
    without = page(context, old=old, new=new)
    assert not without.all("img") and {s.text for s in without.all("span", cls="blank")} == {"no journal named"}


def test_other_instruments_are_an_answer(context: Context) -> None:
    _, old, new = series(context)
    found = page(context, old=old, new=new)
    assert "judged by other instruments" in found.text and "clip: weights_sha256 is" in found.text
    assert f"erasure-audit compare {old} {new} --rescore" in found.text
    assert not found.all("table")


def test_runs_without_a_common_case_are_an_answer(context: Context) -> None:
    run_id = series(context)[0]
    assert "is compared with itself" in page(context, old=run_id, new=run_id).text


def test_without_a_query_neighbours_are_offered(context: Context) -> None:
    found = page(context)
    assert [len(rows(table)) for table in found.all("table")] == [2, 2, 2]
    assert len(found.all("select")) == 2
    assert not page(dataclasses.replace(context, links=StaticLinks())).all("form")


@pytest.mark.parametrize("query", [{"old": "x"}, {"old": "x", "new": "y"}, {"new": "<b>"}, {"margin": "1"}])
def test_an_unknown_run_is_a_page_with_a_way_back(context: Context, query: dict[str, str]) -> None:
    assert answer(context, "compare", query).status == 404
