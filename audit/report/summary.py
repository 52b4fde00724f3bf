"""Write a short Markdown summary for pull requests: the verdict, a matrix of cells, what regressed. At most 60 lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from audit.report.comparing import SENTENCES
from audit.report.markdown import escape
from audit.report.view import Index
from audit.report.words import NOT_AVAILABLE, SYMBOLS, limit_text, percent, plain, verdict_sentence
from audit.verdict.decisions import Decision, VerdictStatus
from audit.verdict.regression import ComparedCell, Comparison, decided
from audit.verdict.results import RunResult

MOST_LINES = 60
_MOST_REASONS, _MOST_CELLS, _MOST_REGRESSIONS = 5, 20, 8
_MOST_SCENARIOS = 8  # columns
_LONGEST = 300
_LINKED = re.compile(r"([@#]|://|\bwww\b|\b[Gg][Hh]-)")
_ORDER = (VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE, VerdictStatus.PASS)


def render(result: RunResult, comparison: Comparison | None = None) -> str:
    """Return Markdown of at most `MOST_LINES` lines, worst first; what is left out is counted."""
    status = decided(result.verdict.status, comparison).value
    lines = [f"## {SYMBOLS[status]} {status}: {_short(result.name, 80)}", ""]
    if comparison is not None:
        lines += [
            f"Gate {result.verdict.status.value}, regression {comparison.status.value}; the worse one counts.",
            "",
        ]
    lines += [_text(verdict_sentence(result.verdict)), ""]
    lines += _listed(result.verdict.reasons, _MOST_REASONS)
    lines += _matrix(result)
    if comparison is not None:
        lines += _regression(comparison)
    failed = [check for check in result.verdict.checks if check.status != "passed"]
    checks = (
        f"{len(failed)} of {len(result.verdict.checks)} data checks did not pass" if failed else "data checks passed"
    )
    lines.append(f"Run {_short(result.run_id, 128)}, {_short(result.created_at, 40)}; {checks}.")
    assert len(lines) <= MOST_LINES
    return "\n".join(lines) + "\n"


def _matrix(result: RunResult) -> list[str]:
    """Return defences by scenarios, each cell with its worst decision of any judge."""
    index, decisions = Index(result), result.verdict.decisions
    if not decisions:
        return ["No cell was decided.", ""]
    scenarios = list(dict.fromkeys(d.scenario for d in decisions))
    shown = scenarios[:_MOST_SCENARIOS]
    rows: dict[tuple[str, str], dict[str, Decision]] = {}
    for decision in sorted(decisions, key=lambda d: _ORDER.index(d.status), reverse=True):  # the worst one is put last
        rows.setdefault((decision.concept, decision.defence), {})[decision.scenario] = decision
    worst = sorted(rows.items(), key=lambda row: min(_ORDER.index(d.status) for d in row[1].values()))
    lines = [_row(["Concept", "Defence", *(_short(s, 40) for s in shown)]), _row(["---"] * (2 + len(shown)))]
    for (concept, defence), by_scenario in worst[:_MOST_CELLS]:
        cells = [_cell(index, by_scenario.get(scenario)) for scenario in shown]
        lines.append(_row([_short(concept, 40), _short(defence, 40), *cells]))
    left = len(worst) - _MOST_CELLS, len(scenarios) - len(shown)
    if left[0] > 0 or left[1] > 0:
        lines += ["", f"Left out: {max(left[0], 0)} rows and {left[1]} scenarios; the report has them all."]
    return [*lines, ""]


def _cell(index: Index, decision: Decision | None) -> str:
    if decision is None:
        return NOT_AVAILABLE
    row = index.rows.get((decision.cell_id, decision.detector))
    hits = f"{row.hits}/{row.assessed}" if row else NOT_AVAILABLE
    return f"{SYMBOLS[decision.status.value]} {hits}, at most {percent(decision.high)} of {limit_text(decision.limit)}"


def _regression(comparison: Comparison) -> list[str]:
    status = comparison.status.value
    against = f"baseline {comparison.baseline}" if comparison.baseline else comparison.old.run_id
    lines = [f"### {SYMBOLS[status]} Regression {status}, against {_short(against, 128)}", ""]
    lines += [escape(SENTENCES[comparison.status]), ""]
    ordered: Iterable[ComparedCell] = sorted(comparison.cells, key=lambda c: _ORDER.index(c.status))
    return lines + _listed(
        [cell.reason for cell in ordered if cell.status is not VerdictStatus.PASS], _MOST_REGRESSIONS
    )


def _listed(reasons: Sequence[str], most: int) -> list[str]:
    lines = [f"- {_text(reason)}" for reason in reasons[:most]]
    if len(reasons) > most:
        lines.append(f"- and {len(reasons) - most} more")
    return [*lines, ""] if lines else []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return _short(text, _LONGEST)


def _short(text: str, limit: int) -> str:
    """Return a text as Markdown that links nothing and calls nobody: forges make links of bare addresses, `@` and `#`."""
    return _LINKED.sub(r"\1<!-- -->", escape(plain(text, limit)))
