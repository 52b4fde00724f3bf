"""M-ErasureBench's block: our rates with intervals and denominators next to the paper's."""

from __future__ import annotations

from pathlib import Path

from audit.errors import SpecError
from audit.report import benchmark
from audit.report.markdown import render_section
from audit.report.view import Index
from audit.verdict.results import RunResult
from deployments.testbed_page import readings


def block(result: RunResult, published: Path | None = None) -> str:
    """Return the block as Markdown.

    Raises `SpecError` when the run is no benchmark run: it lacks one of the paper's three erasers.
    """
    index = Index(result)
    section = benchmark.section(index)
    if section is None:
        raise SpecError(
            "this run audits nothing that M-ErasureBench reports",
            where=f"run {result.run_id}",
            next_step="run a spec with the erasers esd-*, uce and receler, such as deployments/specs/m-erasurebench-sd14.yaml",
        )
    planned = sum(cell.planned for cell in index.cells.values())
    beside = render_section(readings.section(index))
    return f"Run `{result.run_id}`, {planned:,} cases.\n\n{render_section(section)}\n\n{beside}"
