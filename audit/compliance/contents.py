"""The sections of a monthly report as sentences, facts and tables of plain text, which every format prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from audit.compliance import annex, contents_change, contents_results
from audit.compliance.report import Report
from audit.compliance.wording import SENTENCE, name
from audit.report.view import Column, Section, Table
from audit.report.words import count, limit_text, plain, status_text


def sections(report: Report) -> tuple[Section, ...]:
    """Return every section in order."""
    builders: tuple[Callable[[Report], Section], ...] = (
        _conclusion,
        _statement,
        _criteria,
        _tested,
        contents_results.results,
        contents_results.exceptions,
        contents_results.instruments,
        contents_results.quality,
        contents_change.change,
        contents_change.incidents,
        contents_change.operation,
        _limits,
    )
    numbered = [builder(report) for builder in builders]
    return (*numbered, *annex.sections(report))


def header(report: Report) -> str:
    """Return the line that stands above every section and page: system, versions, period."""
    versions = ", ".join(report.versions[:3]) + (", ..." if len(report.versions) > 3 else "")
    return f"{name(report.system)} · version {name(versions)} · {report.month}"


def _conclusion(report: Report) -> Section:
    kinds = Counter(finding.kind for finding in report.exceptions)
    listed = ", ".join(f"{count(n)} {kind}" for kind, n in kinds.items()) or "none"
    verdicts = Counter(run.status or "undecided" for run in report.runs)
    standing = ", ".join(f"{name(audit.run_id)} ({name(audit.name)})" for audit in report.audits)
    facts = (
        ("System", name(report.system)),
        ("Versions", ", ".join(name(version) for version in report.versions)),
        ("Owner", ", ".join(name(part) for part in (report.owner, report.contact) if part) or "not stated"),
        ("Period", f"{report.since} to {report.until}" + ("" if report.month_is_over else ", the month is not over")),
        ("Verdict", status_text(report.status)),
        ("Runs that stand for the month", standing or "none was decided"),
        ("Runs of the month", ", ".join(f"{n} {word}" for word, n in sorted(verdicts.items()))),
        ("Exceptions", listed),
        ("Gates opened by waivers", ", ".join(name(run.run_id) for run in report.runs if run.opened_by) or "none"),
    )
    return Section("conclusion", "1 Conclusion", report.conclusion, facts=facts)


def _statement(report: Report) -> Section:
    runs = [run for run in report.runs if run.run_id in {audit.run_id for audit in report.audits}]
    fixed = [
        f"The criteria of section 3 were fixed on {run.created_at}, when run {name(run.run_id)} was planned and before its first"
        f" test (policy {run.policy_sha256})."
        for run in runs
        if not run.replanned
    ]
    later = [
        f"Run {name(run.run_id)} was decided on {run.decided_at} by another policy ({run.policy_sha256}) than the one that it was"
        " planned with."
        for run in runs
        if run.replanned
    ]
    missed = report.operation.missed
    absent = f" Expected runs that did not start: {len(missed)}; section 6 lists each of them." if missed else ""
    sentences = (
        "I reviewed sections 1 to 9 and the exceptions of section 6." + absent,
        *(fixed or later or ("No run of the month was decided, so no criteria were applied.",)),
        *(later if fixed else ()),
        "I have not verified: the pictures themselves, the truth of labels, the identity of the audited files with what is in"
        " use, the signatures of the evidence, and whatever section 12 lists.",
    )
    blanks = ("Name", "Role", "Response to each exception", "Date", "Key id", "Signature")
    return Section(
        "statement", "2 Statement and signature", sentences, facts=tuple((b, "____________________") for b in blanks)
    )


def _criteria(report: Report) -> Section:
    changed = [row for row in report.criteria if row.changed]
    compared = any(row.previous is not None for row in report.criteria)
    sentences = [
        f"{len(changed) or 'No'} field{'s differ' if len(changed) > 1 else ' differs'} from those of {report.previous_month}."
        if compared
        else f"There is no decided run of {report.previous_month} to compare with."
    ]
    if not report.criteria:
        sentences.append(
            "No policy of a form that this version knows is stored with the runs that stand for the month."
        )
    columns = (
        Column("Audit"), Column("Field", "code"), Column(report.month), Column(report.previous_month), Column("Change"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.audit), name(row.field), plain(row.value, SENTENCE),
            "no run" if row.previous is None else plain(row.previous, SENTENCE), "changed" if row.changed else "as before",
        )
        for row in sorted(report.criteria, key=lambda row: (row.audit, not row.changed))
    )  # fmt: skip
    tables = (Table("Policy of each audit, field by field", columns, rows, heads=2),) if rows else ()
    runs = {run.run_id: run for run in report.runs}
    digests = tuple(
        (f"Policy of {name(audit.name)}", f"version {name(run.policy_version)}, digest {run.policy_sha256}, decided by "
         f"{name(run.decided_by)} with the command {name(run.command)}, attempt {run.attempt}")
        for audit in report.audits
        for run in (runs[audit.run_id],)
    )  # fmt: skip
    return Section("criteria", "3 Criteria", tuple(sentences), facts=digests, tables=tables)


def _tested(report: Report) -> Section:
    columns = (
        Column("Audit"), Column("Scenario"), Column("Access"), Column("Concepts"), Column("Defences"),
        Column("Cells", "number"), Column("Planned cases", "number"),
    )  # fmt: skip
    rows = tuple(
        (
            name(row.audit), name(row.scenario), name(row.access),
            plain(", ".join(row.concepts), SENTENCE), plain(", ".join(row.defences), SENTENCE), count(row.cells),
            count(row.planned),
        )
        for row in report.scope
    )  # fmt: skip
    missing = tuple(
        (name(row.run_id), name(row.detector), name(row.reason), count(row.cases)) for row in report.unassessed
    )
    tables = [Table("Cells that were decided", columns, rows, heads=2)] if rows else []
    if missing:
        reasons = (Column("Run", "code"), Column("Detector"), Column("Reason"), Column("Readings", "number"))
        tables.append(Table("Planned and not assessed, of the audited cells", reasons, missing, heads=3))
    runs = {run.run_id: run for run in report.runs}
    facts = []
    for audit in report.audits:
        run = runs[audit.run_id]
        facts += [
            (f"Model files of {name(audit.name)}", f"backbone {run.backbone_sha256 or 'not stated'}; backbone, concepts and "
             f"defences together {run.audited_sha256}"),
            (f"Corpus of {name(audit.name)}", run.corpus_sha256 or "none"),
        ]  # fmt: skip
    bullets = (
        *report.not_tested,
        *(f"Tested in {report.previous_month} and not in {report.month}: {cell}" for cell in report.dropped),
        "Concepts, defences and scenarios that the table does not name.",
        "Identifiable persons, unless a concept above is one.",
        "The marking of pictures, other modalities, and whatever stands before or behind the audited model in its product.",
    )
    sentences = ("The list below says what was not tested.",)
    return Section(
        "tested", "4 What was tested, and what was not", sentences, tuple(plain(b, SENTENCE) for b in bullets), tuple(facts),
        tuple(tables),
    )  # fmt: skip


def _limits(report: Report) -> Section:
    raw = sum(not row.calibrated for row in report.results)
    bullets = [
        "A rate speaks of the cases that were drawn, of these prompts, seeds, pictures and settings, and of no others.",
        "A bound at or under the limit is no proof that a concept cannot be reproduced by other means.",
        "The report is made from the rows of the index alone. Whether these rows are what was measured is a question to the"
        " sealed evidence and to: erasure-audit evidence verify, and erasure-audit db verify.",
        "Registrations of criteria, reviewers' signatures, labels and replays are kept beside the index; their digests are in"
        " the annex where rows hold them.",
        "A waiver's signature is checked; that its plan is this run's plan is checked by erasure-audit gate, not here.",
    ]
    if raw:
        bullets.append(
            f"{count(raw)} of {count(len(report.results))} intervals are raw: they do not take the judge's own errors into"
            " account."
        )
    if report.operation.expected is None:
        bullets.append("No schedule was given, so that a run that did not start cannot be noticed.")
    if not report.month_is_over:
        bullets.append(f"The month is not over; the report ends at {report.until}.")
    if any(run.replanned for run in report.runs):
        bullets.append("Counts of runs that were decided by another policy are those of their planned thresholds.")
    confidence = limit_text(report.confidence)
    bullets.append(
        f"{confidence} confidence is that of each bound; for FAIL the policy says whether it holds over all of a run's decisions."
    )
    return Section("limits", "12 Limits of this report", bullets=tuple(bullets))
