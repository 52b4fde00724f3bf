"""Results for Prefect's artifact pages: numbers and words only, never pictures."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from audit.verdict.results import CrrRow, RunResult


def store_artifacts(result: RunResult) -> None:
    """Store the verdict as Markdown and the rates as a table. A Prefect API that fails here does not fail the run."""
    try:
        verdict = verdict_markdown(result)
        create_markdown_artifact(verdict, key="audit-verdict", description=f"Verdict of {result.run_id}")
        if result.crr:
            rates = [rate_row(row) for row in result.crr]
            create_table_artifact(rates, key="audit-rates", description=f"Concept reproduction of {result.run_id}")
    except Exception as error:  # Prefect's, httpx's and pydantic's own; a copy of the result is not worth a run
        get_run_logger().warning("the artifacts were not stored: %s", error)


def verdict_markdown(result: RunResult) -> str:
    """Return status, reasons and failed checks of a run as Markdown."""
    lines = [f"# {result.verdict.status}: {result.name}", "", f"Run `{result.run_id}`", ""]
    lines += [f"- {reason}" for reason in result.verdict.reasons]
    lines += [f"- check **{c.name}** {c.status}: {c.detail}" for c in result.verdict.checks if c.status != "passed"]
    return "\n".join(lines) + "\n"


def rate_row(row: CrrRow) -> dict[str, object]:
    """Return one rate with its denominator, interval, worst case and instrument."""
    return {
        "concept": row.concept,
        "sought": row.subject,
        "defence": row.defence,
        "scenario": row.scenario,
        "role": row.control or row.role,
        "detector": row.detector,
        "hits": row.hits,
        "assessed": row.assessed,
        "planned": row.planned,
        "CRR": None if row.rate is None else round(row.rate, 4),
        "interval": f"{row.ci_low:.3f} to {row.ci_high:.3f}",
        "worst case": round(row.worst_case, 4),
    }
