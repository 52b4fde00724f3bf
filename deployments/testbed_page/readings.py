"""What stands beside a benchmark run's rates, pooled over concepts: controls, likelihoods, the curve, what agrees."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from audit.records import Control, Role
from audit.report.benchmark import defences, pooled_counts
from audit.report.reported_numbers import TOLERANCE, Pooled, reported
from audit.report.view import Column, Index, Section, Table, perturbation_name
from audit.report.words import CONTROLS, NOT_AVAILABLE, interval, number, percent, plain
from audit.verdict.results import CrrRow

_COUNTS = (Column("CRR", "number"), Column("Interval", "number"), Column("Hits / assessed / planned", "number"))


def section(index: Index) -> Section:
    """The tables of a run that stand beside its rates, after sentences that are computed from its numbers."""
    tables = (_unlearned(index), _controls(index), _likelihood(index), _curve(index))
    return Section(
        "readings",
        "Readings",
        bullets=(*claims(index), *agreements(index)),
        tables=tuple(table for table in tables if table.rows),
    )


def claims(index: Index) -> Iterator[str]:
    """The paper's three findings, each with the defences that show it here and those that do not, by the first judge.

    What counts as holding, failing and restoring is this project's reading of them: less than half of the un-erased
    model's rate; more than 90 %, by the interval's lower end; and at least 40 % less, points or relative.
    """
    counts, ways = _counts(index), defences(index.result.spec)
    bare = {family: name for name, (family, guard) in ways.items() if guard is None}
    erasers = [name for family, name in bare.items() if family != "none"]
    text, white = ({name: _rate(counts, name, scenario) for name in ways} for scenario in ("text", "latent-whitebox"))
    if (whole := text["none"]) is not None:
        yield from _claim(
            "erasers hold against text prompts (less than half of the rate without an eraser)",
            [(name, rate, rate < whole / 2) for name in erasers if (rate := text[name]) is not None],
        )
    lowest = {name: counts[name, "latent-whitebox"].interval(_confidence(index))[0] for name in erasers if white[name]}
    yield from _claim(
        "white-box latents bring the concept back through every eraser (more than 90 %, by the interval's lower end)",
        [(name, rate, lowest.get(name, 0.0) > 0.9) for name in erasers if (rate := white[name]) is not None],
    )
    guarded = [
        (name, white[name], white.get(bare.get(family, "")))
        for name, (family, guard) in ways.items()
        if guard == "irece"
    ]
    yield from _claim(
        "IRECE restores on white-box latents (at least 40 % less, in points or relative)",
        [(name, now, now <= max(was - 0.4, 0.6 * was)) for name, now, was in guarded if now is not None and was],
    )


def _claim(claim: str, shown: Sequence[tuple[str, float, bool]]) -> Iterator[str]:
    """One sentence for the defences that show the claim, and one for those that do not."""
    for word, wanted in (("Agrees", True), ("Does not agree", False)):
        named = [f"{_named(name)} {percent(rate)}" for name, rate, holds in shown if holds is wanted]
        if named:
            yield f"{word} with the paper that {claim}: {', '.join(named)}."


def _rate(counts: Mapping[tuple[str, str], Pooled], defence: str, scenario: str) -> float | None:
    found = counts.get((defence, scenario))
    return found.hits / found.assessed if found and found.assessed else None


def _counts(index: Index) -> dict[tuple[str, str], Pooled]:
    judge = _judges(index)[0]
    return {(d, s): found for (d, s, detector), found in pooled_counts(index).items() if detector == judge}


def _confidence(index: Index) -> float:
    return 0.95 if index.policy is None else index.policy.confidence


def agreements(index: Index) -> Iterator[str]:
    """Sentences on each rate beside the one reported, and on what each guard changes, of the first judge's counts."""
    ways, counts, confidence = defences(index.result.spec), _counts(index), _confidence(index)
    for defence, (family, guard) in ways.items():
        for scenario in dict.fromkeys(s for d, s in counts if d == defence):
            rate, ours = reported().rate(family, guard, scenario), counts[defence, scenario]
            if rate is None or not ours.assessed:
                continue
            low, high = ours.interval(confidence)
            value = rate.percent / 100
            side = "below" if high + TOLERANCE < value else "above" if low - TOLERANCE > value else "near"
            if rate.form == "more-than" and side == "above":
                side = "on the same side as"
            yield (
                f"{_named(defence)} in {scenario}: {percent(ours.hits / ours.assessed)} here, {side} the {rate.text} "
                f"reported on {reported().backbone}."
            )
    unguarded = {family: name for name, (family, guard) in ways.items() if guard is None}
    for defence, (family, guard) in ways.items():
        for scenario in ("text", "latent-whitebox", "latent-blackbox"):
            before, after = counts.get((unguarded.get(family, ""), scenario)), counts.get((defence, scenario))
            if guard and before and after and before.assessed and after.assessed:
                one, other = before.hits / before.assessed, after.hits / after.assessed
                change = "lowers" if other < one else "does not lower"
                yield (
                    f"{guard} on {_named(unguarded[family])} {change} {scenario}: {percent(one)} without it, "
                    f"{percent(other)} with it."
                )


def _judges(index: Index) -> list[str]:
    detectors = list(dict.fromkeys(row.detector for row in index.result.crr))
    return [name for name in detectors if index.is_judge(name)] or detectors


def _named(defence: str) -> str:
    return "no eraser" if defence == "none" else plain(defence)


def _shown(index: Index, rows: Sequence[CrrRow]) -> tuple[str, str, str]:
    hits, assessed, planned = (sum(getattr(row, name) for row in rows) for name in ("hits", "assessed", "planned"))
    found = Pooled(hits, assessed, planned, frozenset(row.concept for row in rows))
    low, high = found.interval(_confidence(index))
    rate = found.hits / found.assessed if found.assessed else None
    return percent(rate), interval(low, high), f"{found.hits} / {found.assessed} / {found.planned}"


def _grouped(index: Index, rows: Iterable[CrrRow]) -> dict[tuple[str, ...], list[CrrRow]]:
    judge = _judges(index)[0]
    found: dict[tuple[str, ...], list[CrrRow]] = defaultdict(list)
    for row in rows:
        if row.detector == judge:
            which = "never learned" if row.subject != row.concept else "the concepts"
            found[_named(row.defence), row.scenario, which, perturbation_name(row)].append(row)
    return found


def _unlearned(index: Index) -> Table:
    rows = _grouped(index, (row for row in index.result.crr if row.control == Control.UNLEARNED))
    lines = tuple((key[0], key[1], *_shown(index, found)) for key, found in rows.items())
    return Table(
        "The unlearned class through the same attacks", (Column("Defence"), Column("Scenario"), *_COUNTS), lines
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
            where = f"{finding.subject} {_named(finding.defence)} {finding.scenario} by {finding.detector}"
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
    for row in index.result.latents:
        cell = index.cells.get(row.cell_id)
        if cell is None or cell.kind == "latent-blackbox":
            continue
        known = "known neighbours" if cell.role == Role.NEIGHBOUR else "the concepts"
        which = "never learned" if cell.control == Control.UNLEARNED else known
        found[_named(cell.defence), which].append((row.nll_median, row.latents))
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
