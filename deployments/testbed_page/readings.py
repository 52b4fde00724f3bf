"""What stands beside a benchmark run's rates, pooled over concepts: controls, likelihoods, the curve, what agrees."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from audit.records import Control, Role
from audit.report.benchmark import defences
from audit.report.reported_numbers import TOLERANCE, Pooled, reported
from audit.report.view import Column, Index, Section, Table, perturbation_name
from audit.report.words import CONTROLS, NOT_AVAILABLE, interval, number, percent, plain
from audit.verdict.results import CrrRow
from deployments.testbed_page.findings import confidence, guarded, judged, judges, name_of, sentences

_COUNTS = (Column("CRR", "number"), Column("Interval", "number"), Column("Hits / assessed / planned", "number"))


def section(index: Index) -> Section:
    """The tables of a run that stand beside its rates, after sentences that are computed from its numbers."""
    tables = (_unlearned(index), _controls(index), _likelihood(index), _curve(index))
    return Section(
        "readings",
        "Readings",
        bullets=(*sentences(index), *agreements(index)),
        tables=tuple(table for table in tables if table.rows),
    )


def agreements(index: Index) -> Iterator[str]:
    """Sentences on each rate beside the one reported, and on what each guard changes, of the first judge's counts."""
    ways, counts, level = defences(index.result.spec), judged(index), confidence(index)
    for defence, (family, guard) in ways.items():
        for scenario in dict.fromkeys(s for d, s in counts if d == defence):
            rate, ours = reported().rate(family, guard, scenario), counts[defence, scenario]
            if rate is None or not ours.assessed:
                continue
            low, high = ours.interval(level)
            value = rate.percent / 100
            side = "below" if high + TOLERANCE < value else "above" if low - TOLERANCE > value else "near"
            if rate.form == "more-than" and side == "above":
                side = "on the same side as"
            yield (
                f"{name_of(defence)} in {scenario}: {percent(ours.hits / ours.assessed)} here, {side} the {rate.text} "
                f"reported on {reported().backbone}."
            )
    for defence, base in guarded(index.result.spec).items():
        for scenario in ("text", "latent-whitebox", "latent-blackbox"):
            before, after = counts.get((base, scenario)), counts.get((defence, scenario))
            if before and after and before.assessed and after.assessed:
                one, other = before.hits / before.assessed, after.hits / after.assessed
                change = "lowers" if other < one else "does not lower"
                yield (
                    f"{ways[defence][1]} on {name_of(base)} {change} {scenario}: {percent(one)} without it, "
                    f"{percent(other)} with it."
                )


def _shown(index: Index, rows: Sequence[CrrRow]) -> tuple[str, str, str]:
    hits, assessed, planned = (sum(getattr(row, name) for row in rows) for name in ("hits", "assessed", "planned"))
    found = Pooled(hits, assessed, planned, frozenset(row.concept for row in rows))
    low, high = found.interval(confidence(index))
    rate = found.hits / found.assessed if found.assessed else None
    return percent(rate), interval(low, high), f"{found.hits} / {found.assessed} / {found.planned}"


def _grouped(index: Index, rows: Iterable[CrrRow]) -> dict[tuple[str, ...], list[CrrRow]]:
    """Group the first judge's rows over concepts. Pictures of an unlearned class by the un-erased model count once."""
    judge = judges(index)[0]
    found: dict[tuple[str, ...], list[CrrRow]] = defaultdict(list)
    for row in rows:
        if row.detector != judge:
            continue
        unlearned = row.subject != row.concept
        key = (
            name_of(row.defence),
            row.scenario,
            "never learned" if unlearned else "the concepts",
            perturbation_name(row),
        )
        repeats = unlearned and row.defence == "none" and any(one.subject == row.subject for one in found[key])
        if not repeats:  # the same pictures stand beside every concept
            found[key].append(row)
    return found


def _unlearned(index: Index) -> Table:
    rows = _grouped(index, (row for row in index.result.crr if row.control == Control.UNLEARNED))
    lines = tuple((key[0], key[1], *_shown(index, found)) for key, found in rows.items())
    return Table(
        "The unlearned class through the same attacks; each concept's erased model is given the same pictures",
        (Column("Defence"), Column("Scenario"), *_COUNTS),
        lines,
    )


def _curve(index: Index) -> Table:
    """Rates after each perturbation with the same cases' undisturbed row, by class and defence."""
    rows = _grouped(index, index.perturbed())
    columns = (Column("Defence"), Column("Scenario"), Column("Sought"), Column("Perturbation"), *_COUNTS)
    lines = tuple((*key, *_shown(index, found)) for key, found in rows.items())
    return Table("CRR after a perturbation of the latent", columns, lines, heads=4)


def _controls(index: Index) -> Table:
    """How many rows of each control hold what the policy asks of them, and which do not."""
    held: dict[str, Counter[bool]] = defaultdict(Counter)
    broken: dict[str, list[str]] = defaultdict(list)
    for finding in index.result.verdict.controls:
        if finding.holds is None:
            continue
        name = CONTROLS[finding.control][0]
        held[name][finding.holds] += 1
        if not finding.holds:
            missing = " (missing)" if finding.cell_id is None else ""
            where = f"{finding.subject} {name_of(finding.defence)} {finding.scenario} by {finding.detector}"
            broken[name].append(where + missing)
    lines = tuple(
        (name, str(found[True]), str(found[False]), plain("; ".join(broken[name])) or "none")
        for name, found in held.items()
    )
    columns = (
        Column("Control"),
        Column("Rows that hold", "number"),
        Column("Do not", "number"),
        Column("Which do not"),
    )
    return Table("Controls with a required value", columns, lines)


def _likelihood(index: Index) -> Table:
    """The median over cells of each cell's median negative log-likelihood, by class and inverting model."""
    found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    erased = {defence["name"] for defence in index.result.spec["defences"] if defence["eraser"]}
    repeated: set[tuple[str, str]] = set()  # one model inverts the pictures of an unlearned class for every concept
    for row in index.result.latents:
        cell = index.cells.get(row.cell_id)
        if cell is None or cell.kind == "latent-blackbox" or (cell.defence, cell.subject) in repeated:
            continue
        if cell.control == Control.UNLEARNED and cell.defence not in erased:
            repeated.add((cell.defence, cell.subject))
        known = "known neighbours" if cell.role == Role.NEIGHBOUR else "the concepts"
        which = "never learned" if cell.control == Control.UNLEARNED else known
        found[name_of(cell.defence), which].append((row.nll_median, row.latents))
    lines = tuple(
        (
            *key,
            str(sum(n for _, n in rows)),
            number(statistics.median(v for v, _ in rows), 3) if rows else NOT_AVAILABLE,
        )
        for key, rows in found.items()
    )
    columns = (
        Column("Defence"),
        Column("Class"),
        Column("Latents", "number"),
        Column("Median NLL, nats a dimension", "number"),
    )
    return Table("Likelihood of white-box latents under N(0, I); 1.419 is that of such noise", columns, lines, heads=2)
