"""Print the result of a run in the format asked for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from audit import locations
from audit.verdict.results import RunResult
from flows.console import Format, runnable


def print_result(result: RunResult, reports: dict[str, Path], output: Format, root: str | None = None) -> None:
    """Print the result on stdout; on a terminal also where the reports are and what to try next."""
    from audit.report import json_report, junit, markdown, print_report

    if output is not Format.TERMINAL:
        render = {Format.JSON: json_report.render, Format.JUNIT: junit.render, Format.MARKDOWN: markdown.render}[output]
        text = render(result)
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    print_report(result)
    print()
    if "html" in reports:
        print(f"report  {reports['html']}")
    where = f" --root {shlex.quote(root)}" if root and root != locations.DEFAULT_ROOT else ""
    print(runnable(f"next    erasure-audit {_next_command(result, reports)}{where}"))


def _next_command(result: RunResult, reports: dict[str, Path]) -> str:
    """Return a command that can be typed as it stands: it completes the run, shows its pictures, or passes the result on."""
    if result.unassessed and any(row.reason in ("missing", "error") for row in result.unassessed):
        return f"resume {result.run_id}"
    return f"report {result.run_id}" if not reports else f"report {result.run_id} --format markdown"
