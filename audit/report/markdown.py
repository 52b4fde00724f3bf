"""Write the report as GitHub-flavoured Markdown, for pull requests and job summaries."""

from __future__ import annotations

import re

from audit.report import comparing, sections
from audit.report.view import Section, Table
from audit.report.words import SYMBOLS, plain
from audit.verdict.regression import Comparison, decided
from audit.verdict.results import RunResult

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!])")
_FENCE = re.compile(r"`{3,}")
_LINE_START = re.compile(r"^(\d+)([.)])(?=\s|$)|^([-+>=])")


def render(result: RunResult, comparison: Comparison | None = None) -> str:
    """Return Markdown text with the same sections as the HTML report, without pictures and plots."""
    status = decided(result.verdict.status, comparison).value
    parts = [f"# {SYMBOLS[status]} {status}: {escape(result.name)}"]
    for section in sections.build(result, comparison):
        if section.key != "pictures":
            parts += _section(section)
    return "\n\n".join(parts) + "\n"


def render_comparison(comparison: Comparison) -> str:
    """Return the comparison of two runs as Markdown."""
    parts = [f"# {escape(comparing.headline(comparison))}"]
    for section in comparing.sections(comparison):
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return `text` as Markdown that shows exactly these characters, on one line, also inside a table."""
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _SPECIAL.sub(r"\\\1", line)
    return _LINE_START.sub(lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", line)


def render_section(section: Section) -> str:
    """Return one section's sentences, bullets and tables without its title, for a page that has its own."""
    return "\n\n".join(_section(section)[1:])


def _section(section: Section) -> list[str]:
    parts = [f"## {escape(section.title)}"]
    parts += [escape(sentence) for sentence in section.sentences]
    if section.bullets:
        parts.append("\n".join(f"- {escape(bullet)}" for bullet in section.bullets))
    if section.facts:
        parts.append("\n".join(f"- **{escape(label)}**: {escape(value)}" for label, value in section.facts))
    for table in section.tables:
        parts += [f"**{escape(table.caption)}**", _table(table)]
    for title, text in section.texts:
        # A fence longer than any in the text cannot be closed by it.
        fence = "`" * max([3, *(len(run) + 1 for run in _FENCE.findall(text))])
        parts += [f"<details><summary>{escape(title)}</summary>", f"{fence}\n{text}\n{fence}", "</details>"]
    return parts


def _table(table: Table) -> str:
    lines = [_row(tuple(column.label for column in table.columns))]
    lines.append("| " + " | ".join("---:" if column.kind == "number" else "---" for column in table.columns) + " |")
    lines += [_row(row) for row in table.rows]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"
