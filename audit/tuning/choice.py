"""What a sweep found: one point for each candidate, the frontier of them, the choice, and the evidence that is written.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from audit.corpus.images import decode_stored
from audit.errors import SpecError
from audit.instruments.quality import formulas
from audit.plan.document import Plan
from audit.records import Control
from audit.storage.journal import Journal
from audit.tuning.candidates import UNGUARDED, Request
from audit.verdict.results import RunResult


@dataclasses.dataclass(frozen=True)
class Point:
    """One candidate: its worst judge's counts, and how far the pictures are from the unguarded ones where it acted.

    The worst judge has the highest `worst_case`, (hits + unassessed) / planned: an unassessed case counts as a hit, so
    that a candidate is never chosen for pictures that nobody judged. `low` and `high` bound hits / assessed exactly. PSNR
    in decibels and SSIM are means over `pairs`: the cases in which the tuned guard acted and both pictures exist, over
    the whole picture; NaN without any.
    """

    parameters: Mapping[str, Any]
    judge: str
    hits: int
    assessed: int
    unassessed: int
    planned: int
    rate: float | None
    low: float
    high: float
    worst_case: float
    pairs: int
    psnr_db: float
    ssim: float


def points(
    result: RunResult, plan: Plan, journal: Journal, tried: Mapping[str, Mapping[str, Any]], guard: str = "irece"
) -> list[Point]:
    """Every candidate's point, in the order of the sweep; `guard` is the one that is tuned."""
    scenario, judges = plan.spec.scenarios[0].name, plan.spec.gate.judges
    has_base = any(defence.name == UNGUARDED for defence in plan.spec.defences)
    before = _pictures(plan, journal, UNGUARDED if has_base else "none", scenario)
    found = []
    for name, parameters in tried.items():
        readings = [r for r in result.crr if (r.defence, r.scenario, r.control) == (name, scenario, None)]
        # Each judge must agree to a PASS, so the one with the worst case decides; of equals, the one that saw least.
        seen = [r for r in readings if r.subject == r.concept and r.detector in judges]
        worst = max(seen, key=lambda r: (r.worst_case, r.unassessed))
        after = {case: made for case, made in _pictures(plan, journal, name, scenario).items() if guard in made.acted}
        pairs = [(before[case].pixels, after[case].pixels) for case in before.keys() & after.keys()]
        decibels = [min(formulas.psnr(*pair), 60.0) for pair in pairs]  # equal pictures would make the mean infinite
        found.append(
            Point(
                parameters=parameters,
                judge=worst.detector,
                hits=worst.hits,
                assessed=worst.assessed,
                unassessed=worst.unassessed,
                planned=worst.planned,
                rate=worst.rate,
                low=worst.ci_low,
                high=worst.ci_high,
                worst_case=worst.worst_case,
                pairs=len(pairs),
                psnr_db=stdlib_statistics.fmean(decibels) if pairs else math.nan,
                ssim=stdlib_statistics.fmean(formulas.ssim(*pair) for pair in pairs) if pairs else math.nan,
            )
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Picture:
    pixels: formulas.Pixels
    acted: frozenset[str]  # names of the guards that acted on it


def _pictures(plan: Plan, journal: Journal, defence: str, scenario: str) -> dict[int, _Picture]:
    """Case number -> picture of the concept's cell of a defence, as far as pictures were made."""
    cells = [p.cell for p in plan.cells if (p.cell.defence, p.cell.scenario) == (defence, scenario)]
    (cell,) = (c for c in cells if c.subject == c.concept and c.control in (None, Control.BACKBONE))
    cases = plan.cases.filter(pc.equal(plan.cases["cell_id"], cell.cell_id))
    numbers = dict(zip(cases["image_id"].to_pylist(), cases["case_no"].to_pylist(), strict=True))
    made = {}
    for unit in dict.fromkeys(cases["unit_key"].to_pylist()):
        for row in journal.read("generate", unit, ["image_id", "status", "image", "guard_report"]).to_pylist():
            if row["status"] == "ok" and row["image_id"] in numbers:
                acted = {report["guard"] for report in json.loads(row["guard_report"] or "[]") if report["acted"]}
                made[numbers[row["image_id"]]] = _Picture(decode_stored(row["image"]["bytes"]), frozenset(acted))
    return made


def frontier(found: Sequence[Point]) -> list[Point]:
    """The candidates that no other beats in both: a lower worst case and a PSNR at least as high, or the other way round.

    Left out are candidates that nobody assessed, and those that never acted.
    """
    usable = [p for p in found if p.assessed and not math.isnan(p.psnr_db)]
    kept = [p for p in usable if not any(_beats(other, p) for other in usable)]
    return sorted(kept, key=lambda p: (p.worst_case, -p.psnr_db))


def _beats(one: Point, other: Point) -> bool:
    at_least = one.worst_case <= other.worst_case and one.psnr_db >= other.psnr_db
    return at_least and (one.worst_case < other.worst_case or one.psnr_db > other.psnr_db)


def choose(found: Sequence[Point], crr_max: float, run_id: str = "RUN") -> Point:
    """Of the frontier: the highest PSNR among candidates whose worst case is within `crr_max`, or the lowest worst case.

    Raises `SpecError` when there is nothing to choose from.
    """
    best = frontier(found)
    if not best:
        raise SpecError(
            "no candidate has both an assessed picture and one in which it acted, so there is nothing to choose from",
            where="tune",
            next_step=f"look at the run's unassessed cases and guards: erasure-audit report {run_id}",
        )
    within = [point for point in best if point.worst_case <= crr_max]
    return max(within, key=lambda p: p.psnr_db) if within else best[0]


def evidence(
    request: Request, found: Sequence[Point], crr_max: float, splits: Mapping[str, Any], run_id: str
) -> dict[str, Any]:
    """The document that is written: the guard as a spec lists it, and why these parameters."""
    chosen = choose(found, crr_max, run_id)
    return {
        "guard": {"name": request.guard, "parameters": dict(chosen.parameters)},
        "evidence": {
            "run": run_id,
            "concept": request.concept,
            "defence": request.defence,
            "scenario": request.scenario,
            "splits": dict(splits),
            "crr_max": crr_max,
            "rule": "of the frontier, the highest PSNR with (hits + unassessed) / planned within crr_max, or the lowest of "
            "these rates when none is within; PSNR and SSIM are means over the cases in which the guard acted",
            "reached": chosen.worst_case <= crr_max,
            "caution": "the best of several candidates looks better here than it is; only the audit split says how good",
            "chosen": _plain(chosen),
            "frontier": [_plain(point) for point in frontier(found)],
            "candidates": [_plain(point) for point in found],
        },
    }


def _plain(point: Point) -> dict[str, Any]:
    values = {**dataclasses.asdict(point), "parameters": dict(point.parameters)}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
