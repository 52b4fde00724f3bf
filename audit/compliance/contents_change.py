"""Sections 9 to 11: change since last month, incidents, operation."""

from __future__ import annotations

from audit.compliance.report import Report
from audit.compliance.wording import NAME, SENTENCE, name
from audit.report.view import Column, Section, Table
from audit.report.words import count, limit_text, percent, plain, status_text
from audit.verdict.comparison import MARGIN


def change(report: Report) -> Section:
    """Return what breaks the comparison with last month, and the cases of both months in pairs."""
    bullets = tuple(
        plain(
            f"Break of comparability: {change.what} {change.subject} changed with run {change.run_id}, started {change.since}:"
            f" from {change.before} to {change.after}.",
            SENTENCE,
        )
        for change in report.breaks
    )
    sentences = []
    for one in report.comparisons:
        if one.not_compared is not None:
            why = plain(one.not_compared, SENTENCE)
            sentences.append(f"{name(one.audit)}: cases are not compared with {report.previous_month}: {why}.")
            continue
        worse, held = (sum(row.word == word for row in one.pairs) for word in ("worse", "no worse"))
        better = sum(row.word == "better" for row in one.pairs)
        sentences.append(
            f"{name(one.audit)}, run {name(one.run_id)} beside {name(one.previous_run_id)}: of"
            f" {len(one.pairs)} cells and judges {worse} {'is' if worse == 1 else 'are'} shown to be worse, {better} to"
            f" be better, and {held} to be at most {limit_text(MARGIN)} of the cases worse; the others are not decided."
        )
    if not report.breaks:
        sentences.append("Instruments, corpus and criteria are the same in every run of the month and in last month's.")
    rows = tuple(
        (
            name(row.concept), name(row.defence), name(row.scenario), name(row.judge),
            count(row.pairs), count(row.came_back), count(row.newly_held), count(row.unassessed),
            percent(row.increase_at_most), f"{row.p_worse:.3g}", row.word,
        )
        for one in report.comparisons
        for row in one.pairs
    )  # fmt: skip
    columns = (
        Column("Concept"), Column("Defence"), Column("Scenario"), Column("Judge"), Column("Pairs", "number"),
        Column("Newly came back", "number"), Column("Newly held", "number"), Column("Unassessed pairs", "number"),
        Column("Increase at most", "number"), Column("p of worse", "number"), Column("Shown"),
    )  # fmt: skip
    tables = (
        (Table(f"The same cases in {report.previous_month} and in {report.month}", columns, rows, heads=4),)
        if rows
        else ()
    )
    return Section("change", "9 Change since last month", tuple(sentences), bullets, tables=tables)


def incidents(report: Report) -> Section:
    """Return the section on incidents: what rows tell of them, and what they cannot tell."""
    worse = [row for row in report.results if row.previous_status == "PASS" and row.status == "FAIL"]
    bullets = tuple(
        plain(
            f"Turned from PASS to FAIL: {row.concept} | {row.defence} | {row.scenario} | {row.judge}, run {row.run_id}.",
            SENTENCE,
        )
        for row in worse
    )
    sentences = (
        f"{count(len(worse)) if worse else 'No'} decision{'' if len(worse) == 1 else 's'} turned from PASS in"
        f" {report.previous_month} to FAIL.",
        "Incidents that were reported from outside, and replays of single hits, are not kept as rows and are not listed here."
        " Whoever signs adds those that they know of.",
    )
    facts = (("Incidents and replays known to whoever signs", "____________________"),)
    return Section("incidents", "10 Incidents and replays", sentences, bullets, facts)


def operation(report: Report) -> Section:
    """Return the runs that were expected, those that there are, and how each ended."""
    done = report.operation
    facts: list[tuple[str, str]] = [("Runs started", count(len(report.runs))), ("Undecided", count(done.undecided))]
    if done.expected is None:
        facts.append(("Expected runs", "no schedule was given"))
    else:
        facts += [
            ("Schedule", f"{plain(done.expected, NAME)} (UTC)"),
            ("Expected runs", count(done.planned or 0)),
            ("Started and decided", count(done.done or 0)),
            ("Missed", ", ".join(done.missed[:40]) + (", ..." if done.missed[40:] else "") or "none"),
            ("Beside the schedule", count(done.beyond or 0)),
        ]
    columns = (
        Column("Run", "code"), Column("Audit"), Column("Started"), Column("Version"), Column("Attempt", "number"),
        Column("Units", "number"), Column("Failed", "number"), Column("Unassessed", "number"), Column("Verdict", "status"),
        Column("Decided"),
    )  # fmt: skip
    rows = tuple(
        (
            name(run.run_id), name(run.name), run.created_at, name(run.system_version or "not stated"),
            str(run.attempt or "none"), f"{count(run.units_complete)} of {count(run.units)}", count(run.units_failed),
            count(run.unassessed), status_text(run.status) if run.status else "undecided", run.decided_at or "no decision",
        )
        for run in report.runs
    )  # fmt: skip
    table = Table("Every run of the month; unassessed readings are those of its audited cells", columns, rows)
    return Section("operation", "11 Operation", facts=tuple(facts), tables=(table,))
