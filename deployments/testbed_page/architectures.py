"""The block that puts the benchmark's runs on two backbones side by side: the paper's findings, and rates of like defences."""

from __future__ import annotations

from audit.report.markdown import render_section
from audit.report.view import Column, Index, Section, Table
from audit.report.words import NOT_AVAILABLE, interval, percent, plain
from audit.verdict.results import RunResult
from deployments.testbed_page.findings import Finding, confidence, findings, judged, name_of

_SENTENCES = (
    "By the first judge of each run, hits summed over the concepts. A defence is called the same on both when its name is: "
    "one preset may still ask other things of another architecture.",
    "Where the un-erased backbone seldom draws a concept, a low rate through an eraser says little: the row without an eraser "
    "stands first.",
)


def block(one: RunResult, other: RunResult) -> str:
    """Return the block as Markdown."""
    indices = (Index(one), Index(other))
    section = Section("architectures", "", _SENTENCES, tables=(_findings(*indices), _rates(*indices)))
    return f"Runs `{one.run_id}` and `{other.run_id}`.\n\n{render_section(section)}"


def _findings(one: Index, other: Index) -> Table:
    rows = tuple(
        (f"{here.claim[0].upper()}{here.claim[1:]}", _said(here), _said(there))
        for here, there in zip(findings(one), findings(other), strict=True)
    )
    columns = (Column("Finding of the paper"), Column(_backbone(one)), Column(_backbone(other)))
    return Table("Findings of the paper on each backbone", columns, rows)


def _said(finding: Finding) -> str:
    parts = []
    for word, wanted in (("holds", True), ("does not hold", False)):
        if named := [
            f"{name_of(shown.defence)} {percent(shown.before)} → {percent(shown.rate)}"
            for shown in finding.shown
            if shown.holds is wanted
        ]:
            parts.append(f"{word}: {', '.join(named)}")
    return "; ".join(parts) or "not measured"


def _rates(one: Index, other: Index) -> Table:
    """Return the rates of the defences and scenarios that both runs have."""
    here, there = judged(one), judged(other)
    rows = []
    for (defence, scenario), found in here.items():
        if (defence, scenario) not in there:
            continue
        cells, ends = [], []
        for index, counts in ((one, found), (other, there[defence, scenario])):
            low, high = counts.interval(confidence(index))
            ends.append((low, high) if counts.assessed else None)
            rate = counts.hits / counts.assessed if counts.assessed else None
            cells += [percent(rate), interval(low, high), f"{counts.hits} / {counts.assessed} / {counts.planned}"]
        rows.append((name_of(defence), plain(scenario), *cells, _apart(*ends)))
    columns = [Column("Defence"), Column("Scenario")]
    for index in (one, other):
        labels = (f"CRR, {_backbone(index)}", "Interval", "Hits / assessed / planned")
        columns += [Column(label, "number") for label in labels]
    return Table("Defences that both backbones have", (*columns, Column("Intervals")), tuple(rows), heads=2)


def _apart(one: tuple[float, float] | None, other: tuple[float, float] | None) -> str:
    if one is None or other is None:
        return NOT_AVAILABLE
    return "apart" if one[1] < other[0] or other[1] < one[0] else "overlap"


def _backbone(index: Index) -> str:
    return plain(str(index.result.spec["backbone"]))
