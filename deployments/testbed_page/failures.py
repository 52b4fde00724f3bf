"""The block of failure modes: which sizes, places, colours, prompts, seeds and pictures come back more often than the others."""

from __future__ import annotations

from pathlib import Path

from audit.errors import SpecError
from audit.report import failures
from audit.report.markdown import render_section
from audit.report.view import Index
from audit.verdict.results import RunResult


def block(result: RunResult, published: Path | None = None) -> str:
    """Return the block as Markdown. Raises `SpecError` for a run in which nothing came back or no level could be tested."""
    section = failures.section(Index(result))
    if section is None:
        raise SpecError(
            "this run has no failure modes: nothing came back, or no level has enough cases to be tested",
            where=f"run {result.run_id}",
            next_step="choose another run with --run, or audit more cases",
        )
    return f"Run `{result.run_id}`.\n\n{render_section(section)}"
