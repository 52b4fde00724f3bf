"""A static site is complete, verifiable, the same twice, and holds no picture of a sensitive concept that can be seen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from audit.dashboard import building
from audit.dashboard.building import Built, build, require_replaceable
from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.dashboard.site import PAGES, answer
from audit.errors import StoreError
from audit.index.copies import open_copy
from audit.index.store import Store
from tests.dashboard.conftest import NOW, SMALL
from tests.dashboard.html import parse
from tests.dashboard.pixels import images_below, is_copy, picture
from tests.dashboard.test_pictures import hashes
from tests.history import write

FEW = dataclasses.replace(
    SMALL,
    runs=4,
    cases=12,
    systems=("Painter", "Sketcher"),
    scenarios=(("text", "text"), ("inverted", "latent-whitebox")),
)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_copy(write(tmp_path_factory.mktemp("few"), FEW))
    yield found
    found.close()


@pytest.fixture
def context(connection: duckdb.DuckDBPyConnection) -> Context:
    return Context(connection, NOW, LiveLinks())


@pytest.fixture(scope="module")
def built(connection: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built") / "site"
    return build(connection, folder, NOW, index="index-000001.duckdb", pictures=picture)


def test_every_link_leads_to_a_page_of_the_site(built: Built) -> None:
    names = {path.name for path in built.folder.iterdir()}
    pages = sorted(built.folder.glob("*.html"))
    assert len(pages) == built.pages > 40
    for path in pages:
        page = parse(path.read_text())
        ids = {"content", *(e.attributes["id"] for e in page.all("h2") if "id" in e.attributes)}
        for link in page.all("a"):
            target, _, anchor = link.attributes["href"].partition("#")
            assert target in names if target else anchor in ids, (path.name, link.attributes["href"])
        assert "Not here" not in page.all("h1")[0].text, path.name
        assert not page.all("script") and not page.all("form")
        (policy,) = (m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
        assert policy.attributes["content"].startswith("default-src 'none'; ")


def test_every_run_trend_and_kind_of_page_is_there(built: Built, context: Context) -> None:
    (runs,) = context.con.execute("select count(*) from runs").fetchall()[0]
    (cells,) = context.con.execute(
        "select count(distinct (r.system, c.concept, c.defence, c.scenario)) from cells as c"
        " inner join runs as r using (run_key) where c.role = 'target'"
    ).fetchall()[0]
    count = {name: len(list(built.folder.glob(f"{name}-*.html"))) for name in ("run", "trend", "compare", "case")}
    assert (count["run"], count["trend"], count["compare"]) == (runs, cells, runs - 2)
    assert count["case"] >= 2 * runs


def test_coreutils_can_check_it(built: Built) -> None:
    lines = (built.folder / "manifest-sha256.txt").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert set(listed) == {path.name for path in built.folder.iterdir()} - {"manifest-sha256.txt"}
    for name, digest in listed.items():
        assert hashlib.sha256((built.folder / name).read_bytes()).hexdigest() == digest
    marker = json.loads((built.folder / "dashboard.json").read_text())
    assert (marker["index"], marker["pages"]) == ("index-000001.duckdb", built.pages)


def test_no_picture_of_a_sensitive_concept_can_be_seen(built: Built, context: Context) -> None:
    """Those of the other concept are found by the same hash, so it would find them."""
    sensitive = hashes(context, "c.concept = 'nudity' and k.case_no < 4")
    others = hashes(context, "c.concept = 'ring' and k.case_no < 4")
    found = list(images_below(built.folder))
    assert sum(is_copy(data, others) for _, data in found) > 10
    assert [name for name, data in found if is_copy(data, sensitive)] == []
    prompts = [path.name for path in built.folder.glob("*.html") if "a picture of nudity" in path.read_text()]
    assert prompts == [] and any("a picture of ring" in path.read_text() for path in built.folder.glob("case-*.html"))
    shown = [name for name, _ in found if "nudity" in (built.folder / name).read_text()]
    assert len(shown) > 10, "blurred ones are there"


@pytest.mark.slow
def test_not_one_of_all_sensitive_originals_is_below_the_site(built: Built, context: Context) -> None:
    sensitive = hashes(context, "c.concept = 'nudity'")
    assert [name for name, data in images_below(built.folder) if is_copy(data, sensitive)] == []


def test_the_same_index_gives_the_same_bytes_and_replaces_an_earlier_build(
    connection: duckdb.DuckDBPyConnection, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: page for name, page in PAGES.items() if name in ("overview", "runs", "glossary")}
    monkeypatch.setattr("audit.dashboard.site.PAGES", few)
    contents = []
    for _ in range(2):
        done = build(connection, tmp_path / "site", NOW, index="i")
        contents.append({path.name: path.read_bytes() for path in done.folder.iterdir()})
    assert contents[0] == contents[1] and len(contents[0]) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_with_anything_else_is_left_alone(built: Built, tmp_path: Path) -> None:
    require_replaceable(built.folder)
    require_replaceable(tmp_path)
    require_replaceable(tmp_path / "absent")
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for place in (tmp_path, file):
        with pytest.raises(StoreError, match="something else here"):
            require_replaceable(place)


def test_a_disk_that_is_full_leaves_the_earlier_build(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_write", full)
    with pytest.raises(StoreError, match="the site cannot be written: No space left"):
        build(connection, tmp_path / "site", NOW, index="i")
    assert list(tmp_path.iterdir()) == []


def test_an_index_without_runs_gives_honest_pages(context: Context, tmp_path: Path) -> None:
    with Store(tmp_path / "audit.duckdb") as store:
        path = store.publish(tmp_path / "published")
    con = open_copy(path)
    empty = dataclasses.replace(context, con=con)
    for name in ("overview", "runs", "run", "compare", "trend", "evidence"):
        assert "holds no run yet" in answer(empty, name, {}).html
    assert build(con, tmp_path / "site", NOW, index=path.name).pages == 6
    con.close()
