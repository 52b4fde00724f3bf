"""Write a monthly report as PDF/A-3a and PDF/UA-1 with Typst, the JSON document attached."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from audit.compliance.contents import header, sections
from audit.compliance.report import Report
from audit.compliance.wording import name, unbroken
from audit.errors import EnvironmentProblem
from audit.report.view import Table

_STANDARDS = ["a-3a", "ua-1"]
_MISSING = re.compile(r'the text `"((?:[^"\\]|\\.)*)"` could not be displayed')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")
_WORD = re.compile(r"[^ \n]+")  # a space that does not break is part of a word
_MARK = re.compile(r"(?<=[,;=/_.:])")
_LONG, _PIECE = 13, 10  # a word of so many characters may be broken; so many of it stay together
_MOST = 40  # characters that the longest text of a column asks room for
_UPRIGHT, _ACROSS = 504, 751  # points between the margins of a page
_CHARACTER, _BOLD, _CODE = (
    0.5,
    1.1,
    1.0,
)  # width of a character: typical, in sizes; that of a label and of code beside it
_SPACE = 2.5  # characters between columns
_ROUNDS = 20


def require_typst() -> Callable[..., Any]:
    """Return Typst's compiler. Raises `EnvironmentProblem` where it is not installed."""
    try:
        import typst
    except ImportError:
        raise EnvironmentProblem(
            "the PDF is set by Typst, which is not installed",
            where="--format pdf",
            next_step="pip install 'erasure-audit[pdf]', or ask for the others with: --format html,json",
        ) from None
    return typst.compile


def render(report: Report, document: str) -> bytes:
    """Return the PDF with `document`, the JSON of the same report, attached.

    Two calls give the same bytes. A character that Typst's own fonts lack is written as its code point, such as U+4E2D.
    Raises `EnvironmentProblem` where Typst is not installed.
    """
    compile_document = require_typst()
    source = files("audit.compliance").joinpath("templates/monthly.typ").read_bytes()
    text = json.dumps(_data(report), ensure_ascii=False)
    moment = int(dt.datetime.fromisoformat(report.until).timestamp())
    for _ in range(_ROUNDS):
        try:
            pdf: bytes = compile_document(
                source,
                format="pdf",
                sys_inputs={"report": text, "document": document},
                pdf_standards=_STANDARDS,
                ignore_system_fonts=True,
                timestamp=moment,
            )
            return pdf
        except RuntimeError as error:
            missing = _missing(f"{error}\n{getattr(error, 'diagnostic', '')}") & set(text)
            if not missing:
                raise
            text = text.translate({ord(character): f"U+{ord(character):04X} " for character in missing})
    raise RuntimeError("Typst finds no glyphs for ever more characters")


def _missing(diagnostic: str) -> set[str]:
    """Return the characters beyond ASCII of the texts that a diagnostic says cannot be displayed."""
    texts = (_ESCAPE.sub(lambda match: chr(int(match[1], 16)), found) for found in _MISSING.findall(diagnostic))
    return {character for text in texts for character in text if not character.isascii()}


def _data(report: Report) -> object:
    printed = []
    for section in sections(report):
        set_tables = [_unbroken(table) for table in section.tables]
        wide = any(_needs_width(table) for table in set_tables)
        tables = [_table(table, wide) for table in set_tables]
        printed.append({**dataclasses.asdict(section), "tables": tables, "wide": wide})
    title = f"{name(report.system)}, {report.month}"
    return _breakable({"title": title, "header": header(report), "sections": printed})


def _unbroken(table: Table) -> Table:
    """Return a table in which no line ends before a percent sign or after the symbol of a verdict."""
    rows = [
        tuple(
            cell.replace(" ", "\u00a0") if column.kind == "status" else unbroken(cell)
            for column, cell in zip(table.columns, row, strict=True)
        )
        for row in table.rows
    ]
    return dataclasses.replace(table, rows=tuple(rows))


def _needs_width(table: Table) -> bool:
    """Return whether the longest pieces of a table's columns do not stand beside each other on an upright page."""
    return sum(least for least, _ in _columns(table)) > _room(table, wide=False)


def _table(table: Table, wide: bool) -> dict[str, object]:
    """Return a table with the relative width of each column: room for its longest piece, and a share for its longest text."""
    columns = _columns(table)
    least, wanted = (sum(widths) for widths in zip(*columns, strict=True))
    share = min(1.0, max(0.0, (_room(table, wide) - least) / max(wanted - least, 1)))
    widths = [low + (high - low) * share for low, high in columns]
    return {**dataclasses.asdict(table), "widths": widths, "size": _size(table)}


def _columns(table: Table) -> list[tuple[float, float]]:
    """Return the least and the wanted width of each column, in characters, the space between columns included."""
    widths = []
    for number, column in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        pieces = [len(piece) for text in cells for piece in _pieces(text)]
        label = max(map(len, column.label.split())) * _BOLD
        least = max(label, max(pieces, default=0) * (_CODE if column.kind == "code" else 1))
        wanted = min(max(map(len, cells), default=0), _MOST)
        widths.append((least + _SPACE, max(least, wanted) + _SPACE))
    return widths


def _room(table: Table, wide: bool) -> float:
    """Return how many characters stand beside each other on a page."""
    return (_ACROSS if wide else _UPRIGHT) / (_size(table) * _CHARACTER)


def _size(table: Table) -> int:
    return 7 if len(table.columns) > 9 else 8


def _breakable(value: object) -> object:
    """Return JSON values in which a long word may be broken after a mark in it, and after every few characters."""
    if isinstance(value, str):
        return _WORD.sub(lambda match: "\u200b".join(_pieces(match[0])), value)
    if isinstance(value, dict):
        return {key: _breakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_breakable(item) for item in value]
    return value


def _pieces(text: str) -> list[str]:
    """Return the words of a text, the long ones in pieces."""
    pieces: list[str] = []
    for word in _WORD.findall(text):
        if len(word) < (2 if "\u00a0" in word else 1) * _LONG:
            pieces.append(word)
            continue
        for part in _MARK.split(word):
            pieces += [part[start : start + _PIECE] for start in range(0, len(part), _PIECE)]
    return pieces
