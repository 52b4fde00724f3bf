"""Read the results of a sweep: one point for each candidate, their Pareto frontier, the choice, and the written evidence.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence

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
    """One candidate: its worst judge's counts, and how far its pictures are from the unguarded ones where the guard acted.

    The worst judge has the highest `worst_case`, (hits + unassessed) / planned: an unassessed case counts as a hit, so
    that a candidate is never chosen for pictures that nobody judged. `low` and `high` are exact bounds of hits /
    assessed. PSNR in decibels and SSIM are means over `pairs`: the cases in which the tuned guard acted and both
    pictures exist, over the whole picture; NaN without any.
    """

    parameters: Mapping[str, object]
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
    result: RunResult, plan: Plan, journal: Journal, tried: Mapping[str, Mapping[str, object]], guard: str = "irece"
) -> list[Point]:
    """Return the point of every candidate, in the order of the sweep. `guard` is the one that is tuned."""
    scenario, judges = plan.spec.scenarios[0].name, plan.spec.gate.judges
    has_base = any(defence.name == UNGUARDED for defence in plan.spec.defences)
    before = _pictures(plan, journal, UNGUARDED if has_base else "none", scenario)
    candidates = []
    for name, parameters in tried.items():
        readings = [r for r in result.crr if (r.defence, r.scenario, r.control) == (name, scenario, None)]
        # Each judge must agree to a PASS, so the one with the worst case decides; of equals, the one that saw least.
        seen = [r for r in readings if r.subject == r.concept and r.detector in judges]
        worst = max(seen, key=lambda r: (r.worst_case, r.unassessed))
        after = {
            case: picture
            for case, picture in _pictures(plan, journal, name, scenario).items()
            if guard in picture.acted
        }
        pairs = [(before[case].pixels, after[case].pixels) for case in before.keys() & after.keys()]
        decibels = [min(formulas.psnr(*pair), 60.0) for pair in pairs]  # equal pictures would make the mean infinite
        candidates.append(
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
    return candidates


@dataclasses.dataclass(frozen=True)
class _Picture:
    pixels: formulas.Pixels
    acted: frozenset[str]  # names of the guards that acted on it


def _pictures(plan: Plan, journal: Journal, defence: str, scenario: str) -> dict[int, _Picture]:
    """Return case number -> picture of the concept's cell of a defence, for the pictures that were made."""
    cells = [p.cell for p in plan.cells if (p.cell.defence, p.cell.scenario) == (defence, scenario)]
    (cell,) = (c for c in cells if c.subject == c.concept and c.control in (None, Control.BACKBONE))
    cases = plan.cases.filter(pc.equal(plan.cases["cell_id"], cell.cell_id))
    numbers = dict(zip(cases["image_id"].to_pylist(), cases["case_no"].to_pylist(), strict=True))
    pictures = {}
    for unit in dict.fromkeys(cases["unit_key"].to_pylist()):
        for row in journal.read("generate", unit, ["image_id", "status", "image", "guard_report"]).to_pylist():
            if row["status"] == "ok" and row["image_id"] in numbers:
                acted = {report["guard"] for report in json.loads(row["guard_report"] or "[]") if report["acted"]}
                pictures[numbers[row["image_id"]]] = _Picture(decode_stored(row["image"]["bytes"]), frozenset(acted))
    return pictures


def frontier(candidates: Sequence[Point]) -> list[Point]:
    """Return the Pareto frontier: candidates that no other beats both in worst case (lower) and in PSNR (higher).

    Candidates that nobody assessed, and those that never acted, are left out.
    """
    usable = [p for p in candidates if p.assessed and not math.isnan(p.psnr_db)]
    kept = [p for p in usable if not any(_beats(other, p) for other in usable)]
    return sorted(kept, key=lambda p: (p.worst_case, -p.psnr_db))


def _beats(one: Point, other: Point) -> bool:
    at_least = one.worst_case <= other.worst_case and one.psnr_db >= other.psnr_db
    return at_least and (one.worst_case < other.worst_case or one.psnr_db > other.psnr_db)


def choose(candidates: Sequence[Point], crr_max: float, run_id: str = "RUN") -> Point:
    """Return the candidate on the frontier with the highest PSNR within `crr_max`, or else the one with the lowest worst case.

    Raises `SpecError` when there is nothing to choose from.
    """
    best = frontier(candidates)
    if not best:
        raise SpecError(
            "no candidate has both an assessed picture and one in which it acted, so there is nothing to choose from",
            where="tune",
            next_step=f"look at the run's unassessed cases and guards: erasure-audit report {run_id}",
        )
    within = [point for point in best if point.worst_case <= crr_max]
    return max(within, key=lambda p: p.psnr_db) if within else best[0]


def evidence(
    request: Request, candidates: Sequence[Point], crr_max: float, splits: Mapping[str, object], run_id: str
) -> dict[str, object]:
    """Return the document that is written: the guard as a spec lists it, and the reasons for its parameters."""
    chosen = choose(candidates, crr_max, run_id)
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
            "frontier": [_plain(point) for point in frontier(candidates)],
            "candidates": [_plain(point) for point in candidates],
        },
    }


def _plain(point: Point) -> dict[str, object]:
    values = {**dataclasses.asdict(point), "parameters": dict(point.parameters)}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
