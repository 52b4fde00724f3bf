"""Choosing a guard's parameters on a calibration split: an ordinary audit of many candidates, and a frontier of them.

The split is the spec's section `calibration`, which audits never list; tuning in turn takes nothing but digests from
`corpus`, to prove that no picture is in both. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from audit import corpus, identity, quality
from audit.errors import CorpusError, SpecError
from audit.gate import limit_for
from audit.journal import Journal
from audit.plan import Plan
from audit.records import Control
from audit.results import RunResult
from audit.scenarios import LatentScenario, ScenarioSpec
from audit.spec import Concept, Defence, Spec, parse_spec

UNGUARDED = "unguarded"
MOST_CANDIDATES = 200
DEFAULT_GRID: Mapping[str, tuple[Any, ...]] = {"t_star": (801, 701, 601, 501, 401, 301), "tau": (0.3, 0.4, 0.5)}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to tune: a guard of one defence, for one concept under one scenario."""

    guard: str
    concept: str
    defence: str
    scenario: str
    grid: Mapping[str, Sequence[Any]]
    cases: int


@dataclasses.dataclass(frozen=True)
class Point:
    """One candidate: its worst judge's counts with their exact interval, and its distance from the unguarded pictures.

    PSNR in decibels and SSIM are means over `pairs` pictures that exist guarded and unguarded, over the whole picture.
    """

    parameters: Mapping[str, Any]
    judge: str
    hits: int
    assessed: int
    planned: int
    rate: float | None
    low: float
    high: float
    pairs: int
    psnr_db: float
    ssim: float


def calibration_spec(spec: Spec, request: Request) -> tuple[Spec, dict[str, dict[str, Any]]]:
    """The audit that tries every candidate on the calibration split, and candidate names -> parameters.

    Raises `SpecError` when the spec has no such concept, defence, scenario or guard, or nothing to calibrate on.
    """
    concept, defence = _named(spec, request)
    position = next((i for i, guard in enumerate(defence.guards) if guard.name == request.guard), None)
    base = dict(defence.guards[position].parameters) if position is not None else {}
    others = [guard.model_dump(mode="json") for i, guard in enumerate(defence.guards) if i != position]
    at = len(others) if position is None else position
    eraser = defence.eraser.model_dump(mode="json", exclude_defaults=True) if defence.eraser else None
    tried = {f"c{i:03d}": {**base, **values} for i, values in enumerate(_product(request.grid))}
    defences: list[dict[str, Any]] = []
    if eraser or others:
        defences.append({"name": UNGUARDED, "eraser": eraser, "guards": others})
    for name, parameters in tried.items():
        guard = {"name": request.guard, "parameters": parameters}
        defences.append({"name": name, "eraser": eraser, "guards": [*others[:at], guard, *others[at:]]})
    scenario = next(s for s in spec.scenarios if s.name == request.scenario)
    document = spec.model_dump(mode="json")
    document |= {
        "name": f"tune-{spec.name}"[:64],
        "concepts": [concept.model_dump(mode="json")],
        "corpus": [entry.model_dump(mode="json") for entry in spec.calibration if entry.concept == concept.name],
        "calibration": [],
        "defences": defences,
        "scenarios": [scenario.model_copy(update=_reduced(scenario, request.cases)).model_dump(mode="json")],
        "controls": {**document["controls"], "cases": min(spec.controls.cases, request.cases), "unlearned": []},
        "neighbour_cases": 0,
        "gate": {**document["gate"], "limits": [{"crr_max": target(spec, request)}]},
        # Other prompts' seeds than the audit's: text cases have no corpus that could be split.
        "seed": identity.int_key({"seed": spec.seed, "split": "calibration"}) % 2**31,
    }
    return parse_spec(document, "the calibration audit", "mend the spec's calibration section"), tried


def _reduced(scenario: ScenarioSpec, cases: int) -> dict[str, Any]:
    """A calibration needs fewer cases than the audit, and no curve."""
    return {"cases": cases, **({"perturbations": ()} if isinstance(scenario, LatentScenario) else {})}


def _named(spec: Spec, request: Request) -> tuple[Concept, Defence]:
    known: dict[str, tuple[str, list[str]]] = {
        "concept": (request.concept, [c.name for c in spec.concepts]),
        "defence": (request.defence, list(spec.defence_names())),
        "scenario": (request.scenario, [s.name for s in spec.scenarios]),
    }
    for field, (wanted, names) in known.items():
        if wanted not in names:
            raise SpecError(
                f"the spec has no {field} {wanted!r}", where=f"--{field}", next_step=f"use one of: {', '.join(names)}"
            )
    if request.scenario != "text" and not any(entry.concept == request.concept for entry in spec.calibration):
        raise SpecError(
            f"the spec has no calibration pictures of {request.concept!r}, and tuning never touches those of the audit",
            where="calibration",
            next_step="add a section calibration with other pictures than corpus has, as {url: ..., concept: ...}",
        )
    return spec.concept(request.concept), spec.defence(request.defence)


def _product(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not 0 < len(combinations) <= MOST_CANDIDATES:
        raise SpecError(
            f"the sweep has {len(combinations)} candidates; from 1 to {MOST_CANDIDATES} can be tried",
            where="--sweep",
            next_step="give fewer values, such as --sweep t_star=601,401 --sweep tau=0.3,0.5",
        )
    return combinations


def target(spec: Spec, request: Request) -> float:
    """The CRR that a candidate should stay below: the policy's own limit for this cell, or 0.1 where it has none."""
    limit = limit_for(spec.gate, request.concept, request.defence, request.scenario)
    return limit.crr_max if limit else 0.1


def require_disjoint(spec: Spec) -> dict[str, Any]:
    """Object counts and digests of both splits. Raises `CorpusError` when one picture, by its pixels, is in both."""
    found = {}
    for name, entries in (("calibration", spec.calibration), ("corpus", spec.corpus)):
        pixels: dict[str, str] = {}
        rows = 0
        for batch in corpus.manifest(entries, spec.corpus_limits) if entries else ():
            rows += batch.num_rows
            for row in batch.select(["uri", "pixel_sha256"]).to_pylist():
                if row["pixel_sha256"]:
                    pixels.setdefault(row["pixel_sha256"], row["uri"])
        found[name] = (rows, pixels)
    shared = sorted(found["calibration"][1].keys() & found["corpus"][1].keys())
    if shared:
        raise CorpusError(
            f"{len(shared)} pictures are in the calibration split and in the audit's corpus, first "
            f"{found['calibration'][1][shared[0]]}: tuned on them, the audit would prove nothing",
            where="calibration",
            next_step="take these pictures out of one of the two sections",
        )
    return {
        name: {"objects": rows, "pictures": len(pixels), "sha256": identity.key(sorted(pixels))}
        for name, (rows, pixels) in found.items()
    }


def points(result: RunResult, plan: Plan, journal: Journal, tried: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """Every candidate's point, in the order of the sweep."""
    scenario, judges = plan.spec.scenarios[0].name, plan.spec.gate.judges
    has_base = any(defence.name == UNGUARDED for defence in plan.spec.defences)
    before = _pictures(plan, journal, UNGUARDED if has_base else "none", scenario)
    found = []
    for name, parameters in tried.items():
        readings = [r for r in result.crr if (r.defence, r.scenario, r.control) == (name, scenario, None)]
        # The judge that sees the concept most often decides, as each judge must agree to a PASS.
        seen = [r for r in readings if r.subject == r.concept and r.detector in judges]
        worst = max(seen, key=lambda r: -1.0 if r.rate is None else r.rate)
        after = _pictures(plan, journal, name, scenario)
        pairs = [(before[case], after[case]) for case in before.keys() & after.keys()]
        decibels = [min(quality.psnr(*pair), 60.0) for pair in pairs]  # equal pictures would make the mean infinite
        found.append(
            Point(
                parameters=parameters,
                judge=worst.detector,
                hits=worst.hits,
                assessed=worst.assessed,
                planned=worst.planned,
                rate=worst.rate,
                low=worst.ci_low,
                high=worst.ci_high,
                pairs=len(pairs),
                psnr_db=stdlib_statistics.fmean(decibels) if pairs else math.nan,
                ssim=stdlib_statistics.fmean(quality.ssim(*pair) for pair in pairs) if pairs else math.nan,
            )
        )
    return found


def _pictures(plan: Plan, journal: Journal, defence: str, scenario: str) -> dict[int, quality.Pixels]:
    """Case number -> picture of the concept's cell of a defence, as far as pictures were made."""
    cells = [p.cell for p in plan.cells if (p.cell.defence, p.cell.scenario.value) == (defence, scenario)]
    (cell,) = (c for c in cells if c.subject == c.concept and c.control in (None, Control.BACKBONE))
    cases = plan.cases.filter(pc.equal(plan.cases["cell_id"], cell.cell_id))
    numbers = dict(zip(cases["image_id"].to_pylist(), cases["case_no"].to_pylist(), strict=True))
    made = {}
    for unit in dict.fromkeys(cases["unit_key"].to_pylist()):
        for row in journal.read("generate", unit, ["image_id", "status", "image"]).to_pylist():
            if row["status"] == "ok" and row["image_id"] in numbers:
                made[numbers[row["image_id"]]] = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    return made


def frontier(found: Sequence[Point]) -> list[Point]:
    """The candidates that no other beats in both: a lower CRR and a PSNR at least as high, or the other way round."""
    usable = [p for p in found if p.rate is not None and not math.isnan(p.psnr_db)]
    kept = [p for p in usable if not any(_beats(other, p) for other in usable)]
    return sorted(kept, key=lambda p: (p.rate or 0.0, -p.psnr_db))


def _beats(one: Point, other: Point) -> bool:
    at_least = (one.rate or 0.0) <= (other.rate or 0.0) and one.psnr_db >= other.psnr_db
    return at_least and ((one.rate or 0.0) < (other.rate or 0.0) or one.psnr_db > other.psnr_db)


def choose(found: Sequence[Point], crr_max: float, run_id: str = "RUN") -> Point:
    """Of the frontier: the highest PSNR among candidates within `crr_max`, or the lowest CRR when there is none.

    Raises `SpecError` when no candidate was assessed.
    """
    best = frontier(found)
    if not best:
        raise SpecError(
            "no candidate has an assessed picture, so there is nothing to choose from",
            where="tune",
            next_step=f"look at the run's unassessed cases: erasure-audit report {run_id}",
        )
    within = [point for point in best if (point.rate or 0.0) <= crr_max]
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
            "rule": "of the frontier, the highest PSNR within crr_max, or the lowest CRR when none is within",
            "reached": chosen.rate is not None and chosen.rate <= crr_max,
            "caution": "the best of several candidates looks better here than it is; only the audit split says how good",
            "chosen": _plain(chosen),
            "frontier": [_plain(point) for point in frontier(found)],
            "candidates": [_plain(point) for point in found],
        },
    }


def _plain(point: Point) -> dict[str, Any]:
    values = {**dataclasses.asdict(point), "parameters": dict(point.parameters)}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
