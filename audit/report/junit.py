"""Write the report as JUnit XML, for release pipelines: the verdict, every decision and every data check as a test case."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from xml.etree import ElementTree

from audit.report import filtering
from audit.report.tables import p_value, would_decide
from audit.report.words import interval, limit_text, plain
from audit.verdict.decisions import (
    BlockingDecision,
    CheckResult,
    DamageDecision,
    Decision,
    RetentionDecision,
    VerdictStatus,
)
from audit.verdict.regression import ComparedCell, Comparison
from audit.verdict.results import RunResult


def render(result: RunResult, comparison: Comparison | None = None) -> str:
    """Return XML text in which FAIL and failed checks are failures, and INCONCLUSIVE and checks that could not run are errors.

    Test cases that the policy waives are skipped. The verdict is a case of its own, so that a run without decisions
    cannot look green. With `comparison`, every compared cell is a test case too.
    """
    name = plain(result.name)
    root = ElementTree.Element("testsuites", {"name": f"erasure-audit {name}"})
    _suite(root, "verdict", result, [_verdict(result)])
    _suite(root, "gate", result, [_decision(decision) for decision in result.verdict.decisions])
    survival = [_retention(decision) for decision in result.verdict.retention]
    survival += [_damage(decision) for decision in result.verdict.damage]
    survival += [_waiver(waiver) for waiver in result.verdict.waivers]
    _suite(root, "survival", result, survival)
    if result.verdict.blocking or result.blocking:
        filters = [_blocking(decision) for decision in result.verdict.blocking]
        _suite(root, "filters", result, filters, filtering.properties(result))
    _suite(root, "checks", result, [_check(check) for check in result.verdict.checks])
    if comparison is not None:
        compared = [_compared(cell) for cell in comparison.cells]
        _suite(root, "regression", result, [_regression(comparison), *compared])
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(
    root: ElementTree.Element,
    kind: str,
    result: RunResult,
    cases: list[ElementTree.Element],
    facts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "name": f"erasure-audit.{kind}",
            "timestamp": plain(result.created_at)[:19],
            "tests": str(len(cases)),
            "failures": str(sum(case.find("failure") is not None for case in cases)),
            "errors": str(sum(case.find("error") is not None for case in cases)),
            "skipped": str(sum(case.find("skipped") is not None for case in cases)),
            "time": "0",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", {"name": "run_id", "value": plain(result.run_id)})
    for waiver in result.verdict.waivers:
        side = waiver.partition(":")[0]
        ElementTree.SubElement(properties, "property", {"name": f"waived.{plain(side)}", "value": plain(waiver)})
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": plain(name), "value": plain(value)})
    suite.extend(cases)


def _case(kind: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": f"erasure-audit.{kind}", "name": plain(name), "time": "0"})


def _problem(case: ElementTree.Element, status: VerdictStatus, message: str, detail: str) -> None:
    if status is VerdictStatus.PASS:
        return
    tag = "failure" if status is VerdictStatus.FAIL else "error"
    element = ElementTree.SubElement(case, tag, {"type": status.value, "message": message})
    element.text = detail


def _verdict(result: RunResult) -> ElementTree.Element:
    verdict = result.verdict
    case = _case("verdict", "verdict")
    reasons = [plain(reason) for reason in verdict.reasons] or ["The gate recorded no reason."]
    _problem(case, verdict.status, f"{verdict.status.value}: {reasons[0]}", "\n".join(reasons))
    return case


def _decision(decision: Decision) -> ElementTree.Element:
    where = f"{decision.concept} | {decision.defence} | {decision.scenario} | {decision.detector}"
    case = _case("gate", f"{where} | cell {decision.cell_id}")
    detail = (
        f"{plain(decision.reason)}\nCRR {interval(decision.low, decision.high)}, limit {limit_text(decision.limit)}"
    )
    detail += (
        f"\n{plain(decision.bound)} bounds, p {p_value(decision.p_value)}, corrected {p_value(decision.p_adjusted)}"
    )
    if decision.further_cases is not None or decision.needed_cases is not None:
        cases = would_decide(decision.status, decision.needed_cases, decision.further_cases)
        detail += f"\nCases that would decide: {cases}"
    _problem(case, decision.status, plain(decision.reason), detail)
    return case


def _retention(decision: RetentionDecision) -> ElementTree.Element:
    place = (decision.concept, decision.defence, *filter(None, [decision.stage]), decision.detector)
    case = _case("survival", " | ".join(("retention", *place)))
    detail = f"{plain(decision.reason)}\nMinimum {limit_text(decision.minimum)}"
    if decision.further_pairs is not None or decision.needed_pairs is not None:
        pairs = would_decide(decision.status, decision.needed_pairs, decision.further_pairs)
        detail += f"\nPairs that would decide: {pairs}"
    _problem(case, decision.status, plain(decision.reason), detail)
    return case


def _damage(decision: DamageDecision) -> ElementTree.Element:
    case = _case("survival", f"picture check | {decision.concept} | {decision.defence} | {decision.instrument}")
    _problem(case, decision.status, plain(decision.reason), plain(decision.reason))
    return case


def _blocking(decision: BlockingDecision) -> ElementTree.Element:
    over = decision.scenario or "benign prompts"
    case = _case("filters", f"blocked | {decision.concept} | {decision.defence} | {over}")
    detail = (
        f"{plain(decision.reason)}\nBlocked {interval(decision.low, decision.high)}, limit {limit_text(decision.limit)}"
    )
    _problem(case, decision.status, plain(decision.reason), detail)
    return case


def _regression(comparison: Comparison) -> ElementTree.Element:
    case = _case("regression", f"against {comparison.baseline or comparison.old.run_id}")
    reasons = [plain(reason) for reason in comparison.reasons]
    _problem(case, comparison.status, f"{comparison.status.value}: {reasons[0]}", "\n".join(reasons))
    return case


def _compared(cell: ComparedCell) -> ElementTree.Element:
    case = _case("regression", f"{cell.concept} | {cell.defence} | {cell.scenario} | {cell.detector}")
    _problem(case, cell.status, plain(cell.reason), plain(cell.reason))
    return case


def _waiver(waiver: str) -> ElementTree.Element:
    case = _case("survival", f"{waiver.partition(':')[0]} | waived")
    ElementTree.SubElement(case, "skipped", {"message": plain(waiver)})
    return case


def _check(check: CheckResult) -> ElementTree.Element:
    case = _case("checks", f"{check.source} | {check.name}")
    if check.status != "passed":
        failed = check.status == "failed"
        message = f"{check.rows} offending rows" if failed else "the check could not run"
        element = ElementTree.SubElement(
            case, "failure" if failed else "error", {"type": plain(check.status), "message": message}
        )
        element.text = plain(check.detail)
    return case
