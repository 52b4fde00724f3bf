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
from audit.compliance.wording import name
from audit.errors import EnvironmentProblem
from audit.report.view import Table

_STANDARDS = ["a-3a", "ua-1"]
_MISSING = re.compile(r'the text `"((?:[^"\\]|\\.)*)"` could not be displayed')
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")
_LONG_WORD = re.compile(r"\S{13,}")
_PIECE = 10  # characters of a long word that stay together
_WIDE = 11  # most columns of a table on an upright page
_LEAST, _MOST = 5, 26  # characters by which the widths of columns are shared out
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


def _data(report: Report) -> dict[str, Any]:
    printed = []
    for section in sections(report):
        tables = [_table(table) for table in section.tables]
        wide = any(len(table.columns) > _WIDE for table in section.tables)
        printed.append({**dataclasses.asdict(section), "tables": tables, "wide": wide})
    title = f"{name(report.system)}, {report.month}"
    return _breakable({"title": title, "header": header(report), "sections": printed})


def _table(table: Table) -> dict[str, Any]:
    """Return a table with the relative width of each column, by its longest words and its typical text."""
    widths = []
    for number, column in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        words = [len(word) for text in (column.label, *cells) for word in text.split()]
        average = sum(map(len, cells)) / max(len(cells), 1)
        widths.append(min(max(_LEAST, min(max(words, default=0), _PIECE + 3), average), _MOST))
    return {**dataclasses.asdict(table), "widths": widths}


def _breakable(value: Any) -> Any:
    """Return JSON values in which a long word may be broken anywhere after some characters."""
    if isinstance(value, str):
        return _LONG_WORD.sub(lambda match: _pieces(match[0]), value)
    if isinstance(value, dict):
        return {key: _breakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_breakable(item) for item in value]
    return value


def _pieces(word: str) -> str:
    return "\u200b".join(word[start : start + _PIECE] for start in range(0, len(word), _PIECE))
