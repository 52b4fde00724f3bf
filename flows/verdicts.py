"""Print the result of a run in the format asked for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from audit import locations
from audit.verdict.regression import Comparison
from audit.verdict.results import RunResult
from flows.console import Format, runnable


def print_result(
    result: RunResult,
    reports: dict[str, Path],
    output: Format,
    root: str | None = None,
    comparison: Comparison | None = None,
    spec_file: str | None = None,
) -> None:
    """Print the result on stdout; on a terminal also where the reports are and what to try next.

    `comparison` is the run's with an earlier one; `spec_file` is where SARIF places its findings.
    """
    from audit.report import print_report, render

    if output is not Format.TERMINAL:
        text = render(output.value, result, comparison, spec_file)
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    print_report(result, comparison=comparison)
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
