"""Say a verdict in a few lines, for a message to somebody: counts and the first reasons, no pictures and no prompts."""

from __future__ import annotations

import dataclasses
from collections import Counter

from audit.report.words import plain
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import RunResult

MOST_REASONS = 3
_SHUT = {
    VerdictStatus.FAIL: "The gate is shut.",
    VerdictStatus.INCONCLUSIVE: "Not shown to be within the limits; the gate stays shut.",
}


@dataclasses.dataclass(frozen=True)
class Notice:
    """A message: one line of subject, a few lines of text, and whether somebody has to act."""

    title: str
    body: str
    urgent: bool


def of_result(result: RunResult) -> Notice:
    """Return the message on a decided run."""
    verdict = result.verdict
    counts = Counter(
        [d.status.value for d in verdict.decisions]
        + [d.status.value for d in verdict.retention]
        + [d.status.value for d in verdict.damage]
        + [d.status.value for d in verdict.blocking]
    )
    lines = [
        _SHUT.get(verdict.status, "Every decision passed."),
        "Decisions: " + ", ".join(f"{counts[status.value]} {status.value}" for status in VerdictStatus),
        *(f"- {plain(reason)}" for reason in verdict.reasons[:MOST_REASONS]),
    ]
    more = len(verdict.reasons) - MOST_REASONS
    lines += [f"- and {more} more reasons"] if more > 0 else []
    lines += [f"Run: {plain(result.run_id)}", *_system(result)]
    title = f"{verdict.status.value}: {plain(result.name)}"
    return Notice(title, "\n".join(lines), verdict.status is not VerdictStatus.PASS)


def of_failure(run_id: str, error: BaseException) -> Notice:
    """Return the message on a run that reached no verdict. The error's own text, which may quote a prompt, stays in the log."""
    lines = (
        "The audit ended without a verdict.",
        f"Error: {type(error).__name__}; its text is in the log.",
        f"Run: {plain(run_id)}",
    )
    return Notice(f"NO VERDICT: {plain(run_id)}", "\n".join(lines), True)


def _system(result: RunResult) -> list[str]:
    system = result.spec.get("system")
    if not isinstance(system, dict) or not system.get("name"):
        return []
    return [f"System: {plain(' '.join(str(system[part]) for part in ('name', 'version') if system.get(part)))}"]
