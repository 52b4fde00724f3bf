"""Write the reports of a finished run: HTML, Markdown, JSON, JUnit XML, SARIF, a summary, terminal text. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from audit import files
from audit.errors import AuditError, EnvironmentProblem
from audit.progress.steps import counted
from audit.report import html, json_report, junit, markdown, sarif, summary
from audit.report.contact import PER_CELL
from audit.report.embedding import Pictures
from audit.report.terminal import print_comparison, print_report
from audit.verdict.regression import Comparison
from audit.verdict.results import RunResult

__all__ = ["FORMATS", "Pictures", "print_comparison", "print_report", "render", "write_reports"]

FORMATS: Mapping[str, str] = {
    "html": "report.html",
    "markdown": "report.md",
    "json": "report.json",
    "junit": "junit.xml",
    "sarif": "report.sarif",
    "summary": "summary.md",
}


def render(name: str, result: RunResult, comparison: Comparison | None = None, spec_file: str | None = None) -> str:
    """Return the text of one format without pictures: markdown, json, junit, sarif or summary.

    `comparison` is the run's with an earlier one; `spec_file` is where SARIF places its findings.
    """
    if name == "sarif":
        return sarif.render(result, comparison, spec_file)
    renderers = {
        "markdown": markdown.render, "json": json_report.render, "junit": junit.render, "summary": summary.render
    }  # fmt: skip
    return renderers[name](result, comparison)


def write_reports(
    result: RunResult,
    pictures: Pictures,
    directory: Path,
    *,
    show_sensitive: bool = False,
    formats: Sequence[str] = tuple(FORMATS),
    per_cell: int = PER_CELL,
    comparison: Comparison | None = None,
    spec_file: str | None = None,
) -> dict[str, Path]:
    """Write a report in each format under `directory`, which is created when it does not exist; return format -> file.

    `pictures` gives the PNG bytes of a sample, or None when there are none; when it raises, a placeholder stands in.
    Sensitive pictures are blurred unless `show_sensitive`. `comparison` and `spec_file` are as in `render`. All
    formats are rendered before the first file is replaced, and each file is replaced atomically. Raises `AuditError` for
    an unknown format, `EnvironmentProblem` when the directory cannot be written.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise AuditError(
            f"unknown report format {', '.join(unknown)}",
            where="formats",
            next_step=f"use some of: {', '.join(FORMATS)}",
        )
    texts = {
        name: html.render(result, pictures, show_sensitive=show_sensitive, per_cell=per_cell, comparison=comparison)
        if name == "html"
        else render(name, result, comparison, spec_file)
        for name in counted(dict.fromkeys(formats), "report", len(set(formats)), "formats")
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return {name: _replace(directory / FORMATS[name], text) for name, text in texts.items()}
    except OSError as error:
        raise EnvironmentProblem(
            f"the report cannot be written: {error.strerror or error}",
            where=str(directory),
            next_step="free space or name another directory, then run: erasure-audit report RUN",
        ) from error


def _replace(path: Path, text: str) -> Path:
    data = text.encode()
    files.place(path, lambda unfinished: unfinished.write_bytes(data), unfinished=files.shared(path))
    return path
