"""Write a monthly report in the formats that are asked for, all of one document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from audit.compliance import html, pdf
from audit.compliance.contents import sections
from audit.compliance.report import Report
from audit.errors import EnvironmentProblem, SpecError
from audit.files import write_atomically
from audit.identity import key
from audit.report.json_report import plain

SCHEMA = "erasure-audit.monthly-report"
SCHEMA_VERSION = 1  # raised when a field is renamed, removed or changes its meaning
FORMATS = ("html", "pdf", "json")


def folder_name(system: str, month: object) -> str:
    """Return the name of the folder that a report is kept in, of letters, digits and dashes alone."""
    return f"monthly-{month}-{key(system)[:8]}"


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats that text such as `html,json` names, each once. Raises `SpecError` for another, or none."""
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"there is no format {unknown[0][:40]!r}" if unknown else "no format is named"
        raise SpecError(what, where="--format", next_step=f"name some of {', '.join(FORMATS)}, separated by commas")
    return names


def document(report: Report) -> str:
    """Return ASCII JSON with sorted keys: the report as values, and its sections as they are printed."""
    content = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "report": plain(report),
        "sections": plain(sections(report)),
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write(report: Report, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Write the report into `folder` and return format -> file. Raises `EnvironmentProblem` when that is not possible.

    Nothing is written when the PDF is asked for and cannot be set.
    """
    text = document(report)
    contents: dict[str, bytes] = {}
    for name in formats:
        if name == "html":
            contents[name] = html.render(report).encode()
        elif name == "pdf":
            contents[name] = pdf.render(report, text)
        else:
            contents[name] = text.encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"the report cannot be written: {error.strerror}",
            where=str(folder),
            next_step="name another place with --to",
        ) from None
    written = {name: folder / f"report.{name}" for name in contents}
    for name, path in written.items():
        write_atomically(path, partial(Path.write_bytes, data=contents[name]))
    return written
