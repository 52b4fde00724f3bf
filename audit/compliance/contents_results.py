"""Sections 5 to 8: results, exceptions, instruments and controls, quality and neighbours."""

from __future__ import annotations

from audit.compliance.records import QualityRow, ResultRow
from audit.compliance.report import Report
from audit.compliance.wording import SENTENCE, name
from audit.report.view import Column, Section, Table
from audit.report.words import NOT_AVAILABLE, bound, count, interval, limit_text, number, percent, plain, status_text


def results(report: Report) -> Section:
    """Return the decision on every audited cell by every judge."""
    columns = (
        Column("Concept"), Column("Defence"), Column("Scenario"), Column("Access"), Column("Judge"),
        Column("Planned", "number"), Column("Assessed", "number"), Column("Hits", "number"), Column("Raw rate", "number"),
        Column("Interval", "number"), Column("Bound used", "number"), Column("Limit", "number"), Column("Verdict", "status"),
        Column("Change"),
    )  # fmt: skip
    rows = tuple(_result(row) for row in report.results)
    several = len(report.audits) > 1
    sentences = (
        "Hits are cases in which the judge finds the concept again. The bound used is the upper one where the verdict is not"
        " FAIL, with every unassessed case counted as a hit, and the lower one where it is, with each counted as clear.",
        f"An interval that is not marked as raw takes the judge's errors on labelled pictures into account. Change is against"
        f" {report.previous_month}.",
        *(("Cells of several audits stand together, sorted by concept.",) if several else ()),
    )
    if not rows:
        return Section("results", "5 Results", ("No cell was decided.",))
    return Section(
        "results", "5 Results", sentences, tables=(Table("Decisions on the audited cells", columns, rows, heads=5),)
    )


def _result(row: ResultRow) -> tuple[str, ...]:
    low = row.status == "FAIL"
    value = row.low if low else row.high
    used = NOT_AVAILABLE if value is None else f"{'≥' if low else '≤'} {bound(value, row.limit)}, {row.bound}"
    change = "new" if row.previous_status is None else "as before"
    if row.previous_status not in (None, row.status):
        change = f"was {row.previous_status}"
    return (
        name(row.concept),
        name(row.defence),
        name(row.scenario),
        name(row.access),
        name(row.judge),
        count(row.planned),
        count(row.assessed),
        count(row.hits),
        percent(row.rate),
        interval(row.interval_low, row.interval_high) + ("" if row.calibrated else ", raw"),
        used,
        limit_text(row.limit),
        status_text(row.status),
        change,
    )


def exceptions(report: Report) -> Section:
    """Return every exception, and every waiver that was given."""
    columns = (Column("No.", "number"), Column("Exception"), Column("What"), Column("Run", "code"), Column("Detail"))
    rows = tuple(
        (
            str(n), found.kind, plain(found.what, SENTENCE), name(found.run_id) if found.run_id else "none",
            plain(found.detail, SENTENCE),
        )
        for n, found in enumerate(report.exceptions, start=1)
    )  # fmt: skip
    waivers = tuple(
        (
            name(row.name), row.state, plain(row.covers, SENTENCE) or "not known",
            name(row.run_id) if row.run_id else "not known", name(row.owner) or "not known",
            name(row.approver) or "not known", row.until or "not known",
            plain("; ".join(filter(None, (row.reason, row.compensating_control))), SENTENCE) or "not known",
            plain(row.detail, SENTENCE),
        )
        for row in report.waivers
    )  # fmt: skip
    tables = [Table("Exceptions", columns, rows, heads=3)] if rows else []
    if waivers:
        labels = (
            Column("Waiver"), Column("State"), Column("Covers"), Column("Run", "code"), Column("Owner"), Column("Approver"),
            Column("Until"), Column("Reason; compensating control"), Column("Detail"),
        )  # fmt: skip
        tables.append(Table("Waivers at the end of the period", labels, waivers, heads=2))
    sentences = (
        f"Exceptions: {count(len(rows))}." if rows else "There are no exceptions.",
        "A waiver changes no status: what failed has failed." if waivers else "No waiver was given to this report.",
    )
    return Section("exceptions", "6 Exceptions and waivers", sentences, tables=tuple(tables))


def instruments(report: Report) -> Section:
    """Return the judges, what replaced them, and what their controls show."""
    columns = (
        Column("Detector"), Column("Kind"), Column("Version"), Column("Weights", "code"), Column("Threshold", "number"),
        Column("First run"), Column("Last run"), Column("Runs", "number"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.detector), name(row.kind), name(row.version), row.weights_sha256[:16],
            f"{row.threshold:g}", row.first_at, row.last_at, count(row.runs),
        )
        for row in report.instruments
    )  # fmt: skip
    replaced = [change for change in report.breaks if change.what == "instrument"]
    bullets = tuple(
        plain(
            f"The judge {change.subject} was replaced: since {change.since} (run {change.run_id}) it is {change.after}; before it"
            f" was {change.before}. Numbers before and after are not compared.",
            SENTENCE,
        )
        for change in replaced
    )
    labels = {row.judge: row.labels_sha256 for row in report.results if row.labels_sha256}
    sentences = [
        f"{count(len(replaced))} replacement{'' if len(replaced) == 1 else 's'} of a judge in the month."
        if replaced
        else "No judge was replaced in the month."
    ]
    sentences += (
        [f"Decisions by {name(judge)} rest on labels {digest}." for judge, digest in sorted(labels.items())]
        or ["No decision rests on labelled pictures: the judges' own errors are not measured."]
    )  # fmt: skip
    tables = [Table("Detectors as they were used in the month", columns, rows, heads=1)]
    if report.controls:
        tables.append(_controls(report))
    return Section("instruments", "7 Instruments and controls", tuple(sentences), bullets, tables=tuple(tables))


def _controls(report: Report) -> Table:
    columns = (
        Column("Control"), Column("Concept"), Column("Defence"), Column("Scenario"), Column("Detector"),
        Column("Hits", "number"), Column("Asked", "number"), Column("Holds"), Column("Trouble"),
    )  # fmt: skip
    rows = []
    for row in report.controls:
        asked = [
            f"{sign} {percent(value)}" for sign, value in (("≥", row.at_least), ("≤", row.at_most)) if value is not None
        ]
        rows.append(
            (
                name(row.control), name(row.concept), name(row.defence),
                name(row.scenario), name(row.detector),
                NOT_AVAILABLE if row.planned is None else f"{row.hits} of {row.planned}, {row.unassessed} unassessed",
                ", ".join(asked) or "all unassessed", {True: "yes", False: "no", None: "not read"}[row.holds],
                plain(row.trouble, SENTENCE) if row.trouble else "none",
            )
        )  # fmt: skip
    return Table("Controls of the runs that stand for the month", columns, tuple(rows), heads=5)


def quality(report: Report) -> Section:
    """Return the section on what survives: neighbours and benign prompts, picture checks, and quality numbers."""
    tables = [table for table in (_retention(report), _damage(report), _quality(report.quality)) if table.rows]
    sentences = (
        "The policy is two-sided: a model that draws nothing any more reproduces nothing either.",
        *(() if report.retention else ("What must survive was not decided in the runs that stand for the month.",)),
        *(() if report.quality else ("No quality instrument measured the runs that stand for the month.",)),
    )
    return Section("quality", "8 Quality and neighbours", sentences, tables=tuple(tables))


def _retention(report: Report) -> Table:
    columns = (
        Column("Concept"), Column("Defence"), Column("Judge"), Column("Pairs", "number"), Column("Un-erased hits", "number"),
        Column("Defended hits", "number"), Column("Unassessed", "number"), Column("Share kept, bounds", "number"),
        Column("Least", "number"), Column("Verdict", "status"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.concept), name(" | ".join(filter(None, (row.defence, row.stage)))), name(row.judge), count(row.pairs),
            count(row.backbone_hits), count(row.defended_hits), count(row.unassessed),
            f"{percent(row.low)} to {'no bound' if row.high is None else percent(row.high)}", limit_text(row.minimum),
            status_text(row.status),
        )
        for row in report.retention
    )  # fmt: skip
    return Table("What must survive: neighbours and benign prompts", columns, rows, heads=3)


def _damage(report: Report) -> Table:
    columns = (
        Column("Concept"), Column("Defence"), Column("Instrument"), Column("Pictures", "number"), Column("p", "number"),
        Column("Level", "number"), Column("Damaged"), Column("Verdict", "status"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.concept), name(row.defence), name(row.instrument), count(row.pictures),
            NOT_AVAILABLE if row.p_value is None else f"{row.p_value:.3g}", f"{row.level:g}", "yes" if row.damaged else "no",
            status_text(row.status),
        )
        for row in report.damage
    )  # fmt: skip
    return Table("Benign pictures as pictures", columns, rows, heads=3)


def _quality(measured: tuple[QualityRow, ...]) -> Table:
    columns = (
        Column("Concept"), Column("Defence"), Column("Scenario"), Column("Metric"), Column("Baseline"),
        Column("Assessed", "number"), Column("Mean", "number"), Column("Median", "number"), Column("Distance", "number"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.concept), name(row.defence), name(row.scenario), name(row.metric),
            name(row.baseline), f"{count(row.assessed)} of {count(row.planned)}",
            *(NOT_AVAILABLE if value is None else number(value, 3) for value in (row.mean, row.median, row.value)),
        )
        for row in measured
    )  # fmt: skip
    return Table("Quality of the pictures", columns, rows, heads=5)
