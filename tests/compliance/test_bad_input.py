"""What is asked for and is not there gets one clear message; hostile names change nothing and execute nothing."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from pathlib import Path

import duckdb
import pypdfium2
import pytest

from audit.compliance.document import read_month
from audit.compliance.period import Month, expected_times, parse_month
from audit.compliance.report import Report
from audit.errors import SpecError, StoreError
from flows.cli import main
from tests.compliance import quarter
from tests.compliance.conftest import HOSTILE, MARKUP, NOW, OCTOBER, Given
from tests.compliance.test_formats import metadata, pdf_text, squeezed


def asked(given: Given, *arguments: str) -> int:
    """The exit code of the command on the quarter's index."""
    place = ("--root", str(given.root / "runs"), "--database", str(given.root / "db" / "audit.duckdb"))
    return main(["compliance-report", *place, *arguments])


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-1", "October", "2026-10-01", "1999-12", "２０２６-10", "x" * 10_000]
)
def test_a_month_that_is_none(text: str) -> None:
    with pytest.raises(SpecError, match="is no month") as caught:
        parse_month(text, NOW)
    assert len(str(caught.value)) < 300 and "such as 2026-10" in str(caught.value)


def test_a_month_to_come() -> None:
    with pytest.raises(SpecError, match="2026-12 has not begun"):
        parse_month("2026-12", NOW)
    assert parse_month("2026-11", NOW) == Month(2026, 11)  # which is not over


@pytest.mark.parametrize("cron", ["", "never", "61 * * * *", "0 2 * *", "0 0 30 2 *" * 2])
def test_a_schedule_that_is_none(cron: str) -> None:
    with pytest.raises(SpecError, match="is no schedule"):
        expected_times(cron, OCTOBER.start, OCTOBER.end)


def test_months_meet_and_expect_their_days_alone() -> None:
    assert Month(2026, 12).end == Month(2027, 1).start and Month(2026, 1).before == Month(2025, 12)
    nights = expected_times("0 2 * * *", OCTOBER.start, OCTOBER.end)
    assert len(nights) == 31 and nights[0] == dt.datetime(2026, 10, 1, 2, tzinfo=dt.UTC)
    assert expected_times("0 0 1 * *", OCTOBER.start, OCTOBER.end) == (OCTOBER.start,)


def test_a_system_that_there_is_not(given: Given) -> None:
    with pytest.raises(
        StoreError, match="knows no system 'Paintr'; it knows: 'Mural', 'Painter', 'Sketcher'"
    ) as caught:
        given.report("Paintr")
    assert "perhaps --system 'Painter'" in str(caught.value)
    with pytest.raises(StoreError, match="it knows: 'Mural'") as caught:
        given.report(HOSTILE)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable() is ("\n" not in str(caught.value))


def test_a_month_without_runs(given: Given) -> None:
    with pytest.raises(
        StoreError, match="no run of 'Painter' started in 2026-05; runs started in: 2026-08, 2026-09, 2026-10"
    ):
        given.report("Painter", Month(2026, 5))


def test_an_index_that_is_absent_unfinished_or_foreign(given: Given, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no index here"):
        read_month(tmp_path / "absent.duckdb", "Painter", OCTOBER, NOW)
    cut = tmp_path / "cut.duckdb"  # a copy that is being made
    cut.write_bytes(given.index.read_bytes()[:20_000])
    with pytest.raises(StoreError) as caught:
        read_month(cut, "Painter", OCTOBER, NOW)
    assert "db rebuild" in str(caught.value)
    for name, change in (("older", "update index_version set digest = 'older'"), ("empty", "drop table index_version")):
        foreign = tmp_path / f"{name}.duckdb"
        shutil.copy(given.index, foreign)
        foreign.chmod(0o600)
        with duckdb.connect(str(foreign)) as con:
            con.execute(change)
        with pytest.raises(StoreError, match="filled by another version") as caught:
            read_month(foreign, "Painter", OCTOBER, NOW)
        assert "erasure-audit db rebuild" in str(caught.value)


def test_the_command_writes_files_or_says_one_sentence(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    october = ("--month", "2026-10", "--to", str(tmp_path / "out"), "--expected", quarter.CRON)
    waivers = [part for file in given.waivers for part in ("--waiver", str(file))]
    assert (
        asked(
            given,
            *october,
            "--system",
            "Painter",
            "--json",
            "--key",
            str(given.key_file),
            *waivers,
            "--format",
            "html,json",
        )
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "FAIL" and set(answer["files"]) == {"html", "json"}
    assert all(Path(file).stat().st_size > 10_000 for file in answer["files"].values())
    for wrong in (
        ("--month", "2026-10", "--system", "Nobody"), ("--month", "2026-13", "--system", "Painter"),
        ("--month", "2026-05", "--system", "Painter"), (*october, "--system", "Painter", "--format", "docx"),
        (*october, "--system", "Painter", "--waiver", str(given.waivers[0])),
        (*october, "--system", "Painter", "--expected", "now and then"),
    ):  # fmt: skip
        assert asked(given, *wrong) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and "Traceback" not in printed.err and len(printed.err.splitlines()) <= 4
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    assert asked(given, "--month", "2026-10", "--system", "Mural", "--to", str(blocked), "--format", "json") == 2


def test_hostile_names_are_text_in_every_file(hostile: Report, hostile_files: dict[str, Path]) -> None:
    page, paper = hostile_files["html"].read_text(), hostile_files["pdf"].read_bytes()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "{{7*7}}" in page
    for text in (page, metadata(paper), *pdf_text(paper)):
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text) and "x" * 500 not in text.replace("\u200b", "")
    assert squeezed(MARKUP) in squeezed("".join(pdf_text(paper)))
    document = json.loads(hostile_files["json"].read_text())
    assert document["report"]["system"] == hostile.system  # values are whole; only what is printed is cut
    assert hostile.system.endswith(HOSTILE)


@pytest.mark.parametrize("name", ["hostile_files", "written"])
def test_no_text_leaves_the_paper_or_covers_another(name: str, request: pytest.FixtureRequest) -> None:
    document = pypdfium2.PdfDocument(request.getfixturevalue(name)["pdf"].read_bytes())
    assert len(document) < 30
    for page in document:
        things = page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_TEXT])
        boxes = sorted((left, bottom, right, top) for left, bottom, right, top in (t.get_bounds() for t in things))
        assert boxes[0][0] > 40 and max(right for _, _, right, _ in boxes) < page.get_width() - 40
        for number, (_, bottom, right, top) in enumerate(boxes):
            for left, lower, _, upper in boxes[number + 1 :]:
                if left > right - 1:
                    break
                assert min(top, upper) - max(bottom, lower) < 2, (boxes[number], left, lower, upper)
    document.close()
