"""HTML, PDF and JSON say the same, and the PDF is what it declares to be."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pdfua
import pypdfium2
import pytest

from audit.compliance import formats, pdf
from audit.compliance.contents import header, sections
from audit.compliance.report import Report
from audit.errors import EnvironmentProblem, SpecError


def texts(value: object) -> Iterator[str]:
    """Every text in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def squeezed(text: str) -> str:
    """Text without white space and break opportunities, so that line breaks and hyphens of a layout do not matter."""
    return re.sub(r"[\s\u200b\u00ad\ufffe\u2010\u0002-]", "", text)


def pdf_text(data: bytes) -> list[str]:
    """The text of each page."""
    document = pypdfium2.PdfDocument(data)
    try:
        return [page.get_textpage().get_text_range() for page in document]
    finally:
        document.close()


def visible(page: str) -> str:
    """What a page shows, its title among it."""
    shown = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", shown))


def metadata(data: bytes) -> str:
    """The XMP packet of a PDF, which is XML without errors."""
    (packet,) = re.findall(rb"<\?xpacket begin.*?<\?xpacket end[^>]*>", data, re.DOTALL)
    ElementTree.fromstring(packet)
    return bytes(packet).decode()


def test_all_three_say_the_same(written: dict[str, Path]) -> None:
    document = json.loads(written["json"].read_text())
    page = squeezed(visible(written["html"].read_text()))
    paper = squeezed("".join(pdf_text(written["pdf"].read_bytes())))
    for section in document["sections"]:
        tables = [
            [t["caption"], *(c["label"] for c in t["columns"]), *(cell for row in t["rows"] for cell in row)]
            for t in section["tables"]
        ]
        for text in texts([section["title"], section["sentences"], section["bullets"], section["facts"], tables]):
            assert squeezed(text) in page, text
            # A digest that a page's end or another column interrupts is on paper in pieces.
            assert squeezed(text) in paper or all(piece in paper for piece in re.findall(r".{1,10}", squeezed(text))), (
                text
            )


def test_the_json_holds_the_report_as_values(written: dict[str, Path], painter: Report) -> None:
    document = json.loads(written["json"].read_text())
    assert (document["schema"], document["schema_version"]) == ("erasure-audit.monthly-report", 1)
    assert document["report"]["status"] == "FAIL" and len(document["report"]["results"]) == len(painter.results)
    assert document["report"]["operation"]["missed"] == list(painter.operation.missed)


def test_the_pdf_declares_archive_and_accessibility(written: dict[str, Path]) -> None:
    data = written["pdf"].read_bytes()
    declared = metadata(data)
    assert "<pdfaid:part>3</pdfaid:part>" in declared and "<pdfaid:conformance>A</pdfaid:conformance>" in declared
    assert "<pdfuaid:part>1</pdfuaid:part>" in declared and "Painter, 2026-10" in declared
    document = pypdfium2.PdfDocument(data)
    assert document.count_attachments() == 1
    attached = document.get_attachment(0)
    assert (attached.get_name(), bytes(attached.get_data())) == ("report.json", written["json"].read_bytes())
    document.close()


def test_a_checker_of_accessibility_finds_nothing(written: dict[str, Path]) -> None:
    assert pdfua.validate(str(written["pdf"])).findings == ()


def test_system_and_month_stand_on_every_page(written: dict[str, Path], painter: Report) -> None:
    pages = pdf_text(written["pdf"].read_bytes())
    assert len(pages) > 5 and all(squeezed(header(painter)) in squeezed(page) for page in pages)
    assert written["html"].read_text().count(header(painter)) > len(sections(painter))


def test_two_times_give_the_same_bytes(written: dict[str, Path], painter: Report) -> None:
    text = formats.document(painter)
    assert text.encode() == written["json"].read_bytes()
    assert pdf.render(painter, text) == written["pdf"].read_bytes()


def test_nothing_is_promised_in_any_file(written: dict[str, Path]) -> None:
    shown, paper = visible(written["html"].read_text()), written["pdf"].read_bytes()
    for text in (shown, written["json"].read_text(), metadata(paper), *pdf_text(paper)):
        assert not re.search(r"safe|compliant|certified", text, re.IGNORECASE)
    assert "no legal advice" in shown and "not verified" in shown


def test_a_page_makes_no_request_and_runs_nothing(written: dict[str, Path]) -> None:
    page = written["html"].read_text()
    assert "default-src 'none'" in page and "http" not in page.split("</head>")[1]
    assert not re.search(r"<(script|img|svg|iframe|link)\b|url\(|data:|javascript:", page)


def test_there_are_no_pictures_on_paper(written: dict[str, Path]) -> None:
    document = pypdfium2.PdfDocument(written["pdf"].read_bytes())
    kinds = {thing.type for page in document for thing in page.get_objects()}
    document.close()
    assert pypdfium2.raw.FPDF_PAGEOBJ_TEXT in kinds and pypdfium2.raw.FPDF_PAGEOBJ_IMAGE not in kinds


def test_without_typst_the_message_names_the_extra(
    painter: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(EnvironmentProblem, match="not installed") as caught:
        formats.write(painter, tmp_path / "out", ("html", "pdf"))
    assert "erasure-audit[pdf]" in str(caught.value) and not (tmp_path / "out").exists()
    assert set(formats.write(painter, tmp_path / "out", ("html", "json"))) == {"html", "json"}


@pytest.mark.parametrize("text", ["", "docx", "html;pdf"])
def test_a_format_that_there_is_not(text: str) -> None:
    with pytest.raises(SpecError, match="format"):
        formats.parse_formats(text)
