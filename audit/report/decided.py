"""Sentences about how decisions were made: judges' errors, the number of decisions, when cases may be added."""

from __future__ import annotations

from audit.report.tables import p_value
from audit.report.view import Index
from audit.report.words import interval, plain

_TOGETHER = (
    "The p-values of all decisions that the run planned, of target cells and of retention, are corrected together "
)


def judge_errors(index: Index) -> str:
    """Return what the bounds make of the judges' own errors, with the corrected interval of each cell that has one."""
    decisions = index.result.verdict.decisions
    corrected = [decision for decision in decisions if decision.melded_low is not None]
    if not decisions or len(corrected) < len(decisions):
        raw = sorted({plain(decision.detector) for decision in decisions if decision.labels_sha256 is None})
        whose = f"Bounds by {', '.join(raw)}" if corrected else "Bounds"
        said = (
            f"{whose} are raw: they speak of what the judges say, and leave out the judges' own errors." if raw else ""
        )
    else:
        said = "Bounds allow for the judges' own errors, as counted on labelled pictures."
    intervals = [
        f"{plain(d.concept)}, {plain(d.defence)}, {plain(d.scenario)}, {plain(d.detector)} "
        f"{interval(d.melded_low, d.melded_high)}"
        for d in corrected
        if d.melded_low is not None and d.melded_high is not None
    ]
    return " ".join(
        filter(None, (said, f"With errors of both kinds taken out: {'; '.join(intervals)}." if intervals else ""))
    )


def reading(index: Index) -> tuple[tuple[str, str], ...]:
    """Return (word, explanation) for what the table of decisions holds."""
    policy = index.result.spec.get("gate") or {}
    anytime = policy.get("stopping") == "anytime"
    alphas = {decision.alpha for decision in index.result.verdict.decisions if decision.alpha is not None}
    level = f" (here {p_value(min(alphas))})" if alphas else ""
    holm = policy.get("multiplicity", "holm") == "holm"
    return (
        (
            "Decision",
            "PASS needs the upper bound within the limit, FAIL a p-value below the error. Bounds are one-sided and count "
            "unassessed cases against the claim. Anything between is INCONCLUSIVE; 'cases that would decide' would do so at "
            "the observed rate.",
        ),
        (
            "Bound",
            "raw: Clopper-Pearson of what the judge says. no-credit: allows for the judge's own errors, and credits none of "
            "them in favour of the claim. anytime: holds however often cases are added.",
        ),
        (
            "p",
            "How likely so many hits, or so few survivors, are at the limit itself. "
            + (
                f"{_TOGETHER}by Holm's rule: FAIL needs a corrected value below the policy's error{level}. A cell that is above "
                "its limit only by itself is suggestive, and INCONCLUSIVE."
                if holm
                else f"It is not corrected for the number of decisions: FAIL needs a value below the policy's error{level}."
            ),
        ),
        (
            "Adding cases",
            "Bounds hold however often one looks and adds cases."
            if anytime
            else "Bounds hold for the planned number of cases. Who adds cases after looking, or runs again until it passes, "
            "errs more often: a new run counts as another attempt.",
        ),
    )
