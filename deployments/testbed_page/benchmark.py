"""M-ErasureBench's block: our rates with intervals and denominators next to the paper's, pooled and concept by concept."""

from __future__ import annotations

from pathlib import Path

from audit.errors import SpecError
from audit.report import benchmark
from audit.report.markdown import render_section
from audit.report.view import Index, Section
from audit.verdict.results import RunResult
from deployments.testbed_page import readings
from deployments.testbed_page.concepts import by_concept, neighbours_kept


def block(result: RunResult, published: Path | None = None) -> str:
    """Return the block as Markdown.

    Raises `SpecError` when the run is no benchmark run: it has none of the paper's three erasers.
    """
    index = Index(result)
    section = benchmark.section(index, whole=False)
    if section is None:
        raise SpecError(
            "this run audits nothing that M-ErasureBench reports",
            where=f"run {result.run_id}",
            next_step="run a spec with one of the erasers esd-*, uce and receler, such as "
            "deployments/specs/m-erasurebench-testbed.yaml",
        )
    planned = sum(cell.planned for cell in index.cells.values())
    tables = (by_concept(index), neighbours_kept(index))
    each = Section("concepts", "", tables=tuple(table for table in tables if table.rows))
    parts = map(render_section, (section, each, readings.section(index)))
    return "\n\n".join((f"Run `{result.run_id}`, {planned:,} cases.", *parts))
