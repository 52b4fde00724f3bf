"""The numbers of every page are those of SQL on the index, and its verdicts the gate's."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import duckdb
import pytest

from audit.dashboard.context import Context
from audit.dashboard.glossary import WORDS
from audit.dashboard.site import PAGES, answer
from audit.index.store import Store
from tests.dashboard.html import Element, parse, rows
from tests.history import History, fill

CELL = {"system": "Painter", "concept": "ring", "defence": "uce", "scenario": "inverted"}
CELL_ROWS = """
select r.run_id, r.created_at, d.status, c.hits, c.assessed, c.planned, round(100 * c.rate, 1)
from mart_crr as c
inner join runs as r using (run_id)
left join mart_decisions as d
    on d.run_id = c.run_id and d.cell_id = c.cell_id and d.detector = c.detector and d.side = 'crr' and d.newest
where r.system = 'Painter' and c.concept = 'ring' and c.defence = 'uce' and c.scenario = 'inverted' and c.detector = ?
order by r.created_at desc
"""
CONTROLS = """
select c.control, c.detector, c.run_id, sum(c.hits), sum(c.assessed), sum(c.planned)
from mart_crr as c inner join runs as r using (run_id)
where r.system = 'Painter' and c.control is not null group by all
"""


def page(context: Context, name: str, **query: str) -> Element:
    found = answer(context, name, query)
    assert found.status == 200
    return parse(found.html)


def table(page: Element, caption: str) -> list[list[str]]:
    (found,) = (t for t in page.all("table") if t.all("caption")[0].text.startswith(caption))
    return rows(found)


def test_the_list_of_runs(context: Context) -> None:
    sql = (
        "select r.run_id, r.system, r.system_version, r.created_at, v.status, v.policy_version, v.attempt"
        " from runs as r inner join mart_verdicts as v using (run_id) where v.newest order by r.created_at desc, r.run_id desc"
    )
    wanted = [[str(value) for value in row] for row in context.con.execute(sql).fetchall()]
    shown = table(page(context, "runs"), "Runs, newest first")
    assert [[*row[:4], row[4].split()[-1], *row[5:7]] for row in shown] == wanted
    assert [row[1] for row in table(page(context, "runs", system="Mural"), "Runs")] == ["Mural"] * 3


def test_a_run_has_the_rates_and_the_verdict_of_the_index(context: Context) -> None:
    for run_id, status in context.con.execute("select run_id, status from mart_verdicts where newest").fetchall():
        found = page(context, "run", run=run_id)
        assert found.all("h2")[0].text.split()[-1] == status
        sql = (
            "select c.detector, c.hits, c.assessed, c.planned from mart_crr as c"
            " where c.run_id = ? and (c.role = 'target' or c.control = 'backbone')"
        )
        wanted = sorted((d, f"{h} / {a} / {p}") for d, h, a, p in context.con.execute(sql, [run_id]).fetchall())
        tables = [t for t in found.all("table") if t.all("caption")[0].text.startswith("Concept reproduction rate")]
        heads = [[th.text for th in t.all("thead")[0].all("th")] for t in tables]
        shown = [
            (row[next(n for n, h in enumerate(head) if h == "Instrument")], next(cell for cell in row if cell.count(" / ") == 2))
            for t, head in zip(tables, heads, strict=True)
            for row in rows(t)
        ]  # fmt: skip
        assert sorted(shown) == wanted


def test_a_trend_has_the_rates_of_every_run_and_is_broken_where_the_judge_changes(context: Context) -> None:
    found = page(context, "trend", **CELL)
    for judge in ("clip", "classifier"):
        shown = table(found, f"Runs by {judge}")
        wanted = context.con.execute(CELL_ROWS, [judge]).fetchall()
        assert [(row[0], row[1], row[3].split()[-1], row[4], row[5]) for row in shown] == [
            (run_id, at, status, f"{hits} / {assessed} / {planned}", f"{rate:.1f} %")
            for run_id, at, status, hits, assessed, planned, rate in wanted
        ]
    assert [row[-1] for row in table(found, "Runs by clip")] == [
        "A: the judge is another instrument", "nothing", "nothing",
    ]  # fmt: skip
    assert {row[-1] for row in table(found, "Runs by classifier")} == {"nothing"}
    mural = page(context, "trend", **{**CELL, "system": "Mural"})
    assert "another policy (2025, then 2026)" in mural.text
    assert "another corpus" in page(context, "trend", **{**CELL, "system": "Sketcher"}).text


def test_one_judge_of_a_trend(context: Context) -> None:
    found = page(context, "trend", **CELL, judge="clip")
    assert [t.all("caption")[0].text for t in found.all("table")] == ["Runs by clip, newest first"]


def test_controls_and_judges(context: Context) -> None:
    found = page(context, "instruments", system="Painter")
    words = {"reference": "reference images", "vae-roundtrip": "VAE round trip", "backbone": "un-erased backbone"}
    wanted = {
        (words.get(control, "black images"), judge, run_id, f"{hits:,} / {assessed:,} / {planned:,}")
        for control, judge, run_id, hits, assessed, planned in context.con.execute(CONTROLS).fetchall()
    }
    shown = table(found, "Controls by run")
    assert {(row[0], row[1], row[2], row[4]) for row in shown} == wanted and len(shown) == len(wanted)
    judges = table(found, "Judges")
    sql = (
        "select i.detector, i.weights_sha256[:16], count(*) from instruments as i inner join runs as r using (run_key)"
        " where r.system = 'Painter' group by all"
    )
    assert {(row[0], row[2], int(row[7])) for row in judges} == set(context.con.execute(sql).fetchall())
    assert "clip is 2 instruments" in found.text


def test_decisions_on_record_and_attempts(context: Context) -> None:
    found = page(context, "evidence")
    sql = "select run_id, decision_no, decided_at, attempt, status, sha256[:16] from mart_verdicts"
    shown = table(found, "Decisions on record")
    assert {(r[0], int(r[2]), r[3], int(r[8]), r[9].split()[-1], r[11]) for r in shown} == set(
        context.con.execute(sql).fetchall()
    )
    claims = table(found, "Claims")
    sql = (
        "select r.system, count(*), max(v.attempt), count(*) filter (where v.status = 'PASS') from runs as r"
        " inner join mart_verdicts as v using (run_id) where v.newest group by r.system, r.audited_sha256, v.policy_sha256"
    )
    wanted = sorted(context.con.execute(sql).fetchall())
    assert sorted((row[0], *map(int, row[4:7])) for row in claims) == wanted
    assert "there are no neighbours in this corpus" in found.text


def test_the_glossary_has_every_word(context: Context) -> None:
    found = page(context, "glossary")
    assert {word for word, _ in WORDS} <= {dt.text for dt in found.all("dt")}
    assert answer(context, "glossary", {"q": "x"}).status == 404


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("runs", {"system": "nobody"}), ("run", {}), ("run", {"run": "never"}), ("run", {"run": "x", "cell": "1"}),
        ("trend", {}), ("trend", {**CELL, "defence": "never"}), ("trend", {**CELL, "judge": "never"}),
        ("trend", {**CELL, "scenario": ""}), ("instruments", {"system": "'; drop table runs; --"}),
        ("evidence", {"page": "2"}), ("../../etc/passwd", {}), ("style.css.bak", {}), ("", {}),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_with_a_way_back(context: Context, name: str, query: dict[str, str]) -> None:
    found = answer(context, name, query)
    assert found.status == 404
    assert "./" in [a.attributes["href"] for a in parse(found.html).all("main")[0].all("a")]


def test_a_run_that_scores_other_pictures_again_is_part_of_no_series(tmp_path: Path, context: Context) -> None:
    history = History(
        runs=3, cases=4, systems=("Painter",), concepts=("ring",), defences=("uce",), scenarios=(("inverted", "latent-whitebox"),)
    )  # fmt: skip
    path = tmp_path / "audit.duckdb"
    Store(path).close()
    with duckdb.connect(str(path)) as con:
        fill(con, history)
        first, second, last = (run.run_id for run in history.planned_runs)
        con.execute("update runs set derived_from = ? where run_id = ?", [first, last])
        small = dataclasses.replace(context, con=con)
        heading = page(small, "overview").all("section", cls="system")[0]
        assert f"Decided run {second}" in heading.text and last not in heading.text
        assert [row[0] for row in table(page(small, "trend", **CELL), "Runs by clip")] == [second, first]
        assert last not in page(small, "compare").all("table")[0].text
        found = page(small, "run", run=last)
        assert f"those of {first}, scored again" in found.text and "The run before" not in found.text


def test_every_page_names_when_and_from_which_copy(context: Context) -> None:
    queries = {"run": {"run": context.con.execute("select run_id from runs").fetchall()[0][0]}, "trend": CELL}
    for name in set(PAGES) - {"case"}:
        found = page(context, name, **queries.get(name, {}))
        assert "2026-11-29 12:00 UTC from index-000001.duckdb" in found.all("footer")[0].text
        assert len(found.all("h1")) == 1 and found.all("main")
        ids = [
            e.attributes["id"]
            for tag in ("h2", "section", "main", "div")
            for e in found.all(tag)
            if "id" in e.attributes
        ]
        assert len(ids) == len(set(ids))
    assert context.now.tzinfo is dt.UTC
