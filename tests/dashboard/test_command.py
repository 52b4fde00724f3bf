"""`dashboard build` and `serve`: a journal's own run, its verdict as the gate gives it, and one message for each mistake."""

from __future__ import annotations

import datetime as dt
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.corpus.manifest import manifest_sha256
from audit.dashboard.context import Context
from audit.dashboard.links import LiveLinks
from audit.dashboard.site import answer
from audit.index.copies import open_copy
from audit.storage.journal import Journal
from flows.cli import main
from tests.dashboard.html import parse
from tests.dashboard.pixels import difference_hash, images_below, is_copy, picture
from tests.dashboard.test_pictures import Found
from tests.index.test_case_pictures import Drawn
from tests.synthetic import cell, control, generate_row, instrument

BACKBONE = {"defence": "none", "role": "control", "control": "backbone"}


class Pictured(Drawn):
    """A run of a sensitive concept and another one, whose pictures have pixels."""

    def rows(self, key: str) -> list[dict[str, Any]]:
        if self.units[key]["kind"] != "generate":
            return super().rows(key)
        return [
            {**generate_row(case), "image": {"bytes": picture(Found(key, case["image_id"])), "path": None}}
            for case in self.cases
            if case["unit_key"] == key
        ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root with one folded run of two concepts, decided by the gate command."""
    folder = tmp_path_factory.mktemp("root")
    hidden = {"concept": "disc", "subject": "disc", "sensitive": True}
    cells = [cell(0, 4, **BACKBONE), cell(1, 4), cell(2, 4, defence="uce+sld")]
    cells += [cell(3, 4, **hidden, **BACKBONE), cell(4, 4, **hidden), cell(5, 4, **hidden, defence="uce+sld")]
    cells += [control(6, 4, "reference"), control(7, 4, "black")]
    run = Pictured(cells=cells, instruments=[instrument()], system={"name": "Painter", "version": "3"})
    run.rules = [{"detector": "judge", "subject": s, "label": s, "threshold": 0.5} for s in ("ring", "disc")]
    journal = Journal(str(folder))
    run.write(journal)
    empty = MANIFEST_SCHEMA.empty_table()
    sink = io.BytesIO()
    pq.write_table(empty, sink)
    journal.put_run("run-1", "manifest.parquet", sink.getvalue())
    plan = json.loads(journal.get_run("run-1", "plan.json")) | {"corpus": {"sha256": manifest_sha256(empty)}}
    journal.store.put("runs/run-1/plan.json", json.dumps(plan).encode())
    assert main(["db", "rebuild", "--root", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def status(root: Path) -> str:
    """The status of the gate's decision, which the command puts on record."""
    code = main(["gate", "run-1", "--root", str(root)])
    return {0: "PASS", 3: "FAIL", 4: "INCONCLUSIVE"}[code]


def test_the_overview_has_the_verdict_that_the_gate_gave(root: Path, status: str) -> None:
    con = open_copy(sorted(root.rglob("published/index-*.duckdb"))[-1])
    page = parse(answer(Context(con, dt.datetime.now(dt.UTC), LiveLinks()), "overview", {}).html)
    con.close()
    (system,) = page.all("section", cls="system")
    assert system.all("a")[0].text == "Painter" and system.all("span", cls="badge")[0].text.split()[-1] == status


@pytest.mark.slow
def test_a_site_of_a_journal(root: Path, status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    assert main(["dashboard", "build", str(site), "--root", str(root), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["pages"] == len(list(site.glob("*.html"))) and answer["folder"] == str(site)
    home = parse((site / "index.html").read_text())
    (system,) = home.all("section", cls="system")
    assert system.all("span", cls="badge")[0].text.split()[-1] == status
    run = parse((site / system.all("a")[1].attributes["href"]).read_text())
    assert run.all("h2")[0].text.split()[-1] == status
    case = next(path.read_text() for path in site.glob("case-*.html"))
    assert "data:image/jpeg;base64," in case

    of: dict[str, list[np.ndarray]] = {concept: [] for concept in ("ring", "disc")}
    journal = Journal(str(root))
    plan = Pictured(cells=json.loads(journal.get_run("run-1", "plan.json"))["cells"], instruments=[instrument()])
    for planned in plan.cases:
        concept = plan.cells[planned["cell_id"]]["concept"]
        of[concept].append(difference_hash(picture(Found(planned["unit_key"], planned["image_id"]))))
    found = list(images_below(site))
    assert [name for name, data in found if is_copy(data, np.array(of["disc"]))] == []
    assert sum(is_copy(data, np.array(of["ring"])) for _, data in found) > 3

    assert main(["dashboard", "build", str(site), "--root", str(root)]) == 0, "an earlier build is replaced"
    (site / "notes.txt").write_text("mine")
    assert main(["dashboard", "build", str(site), "--root", str(root)]) == 2
    assert "something else here" in capsys.readouterr().err


def test_without_options_index_and_pictures_are_those_of_the_usual_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ERASURE_AUDIT_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(root)
    assert main(["dashboard", "build", "site"]) == 0
    assert list(images_below(tmp_path / "site"))


def test_with_an_index_alone_there_are_stand_ins(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERASURE_AUDIT_ROOT", raising=False)
    index = next(root.rglob("published"))
    assert main(["dashboard", "build", str(tmp_path / "site"), "--index", str(index)]) == 0
    assert list(images_below(tmp_path / "site")) == []
    assert any("no journal named" in path.read_text() for path in (tmp_path / "site").glob("case-*.html"))


@pytest.mark.parametrize("command", [["build", "{tmp}/site"], ["serve"]])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "{tmp}/none"], "no published index here"),
        (["--index", "{tmp}/empty.duckdb"], "the index is an empty file"),
        (["--index", "s3://user:secret@bucket/x"], "carries credentials"),
        (["--root", "{tmp}/none"], "no published index here"),
        (["--index", "{index}", "--root", "{tmp}/none"], "there is no storage root here"),
    ],
)
def test_mistakes_are_one_message(
    command: list[str],
    options: list[str],
    message: str,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.duckdb").touch()
    words = [word.format(tmp=tmp_path, index=published) for word in ["dashboard", *command, *options]]
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert message in errors and "Traceback" not in errors and "secret" not in errors
    assert not (tmp_path / "site").exists()


def test_a_port_that_is_taken(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["dashboard", "serve", "--index", str(published), "--port", port]) != 0
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
