"""Plan the sweep of a guard's parameters on a calibration split: an ordinary audit of many candidates.

`audit.tuning.choice` reads its results. The split is the spec's section `calibration`, which audits never plan from;
tuning in turn takes only digests from `corpus`, to prove that no picture is in both. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from audit import identity
from audit.corpus import ingest
from audit.errors import SpecError
from audit.index.corpus_checks import require_disjoint
from audit.spec.document import Spec, parse_spec
from audit.spec.scenarios import AdversarialTextScenario, LatentScenario, ScenarioSpec, TextScenario
from audit.spec.sections import Concept, Defence
from audit.verdict.gate import limit_for

_WAIVED = "candidates are compared with each other, and the audit judges the chosen one"
UNGUARDED = "unguarded"
MOST_CANDIDATES = 200
DEFAULT_GRID: Mapping[str, tuple[float, ...]] = {"t_star": (801, 701, 601, 501, 401, 301), "tau": (0.3, 0.4, 0.5)}


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to tune one guard of one defence, for one concept under one scenario."""

    guard: str
    concept: str
    defence: str
    scenario: str
    grid: Mapping[str, Sequence[object]]
    cases: int


def calibration_spec(spec: Spec, request: Request) -> tuple[Spec, dict[str, dict[str, object]]]:
    """Return the audit that tries every candidate on the calibration split, and the candidates' parameters by name.

    Raises `SpecError` when the spec has no such concept, defence, scenario or guard, or nothing to calibrate on.
    """
    concept, defence = _named(spec, request)
    position = next((i for i, guard in enumerate(defence.guards) if guard.name == request.guard), None)
    base = dict(defence.guards[position].parameters) if position is not None else {}
    # The sweep is compared with itself: mask controls of every candidate would only cost time.
    bare = [guard.model_copy(update={"controls": ()}) for guard in defence.guards]
    others = [guard.model_dump(mode="json") for i, guard in enumerate(bare) if i != position]
    at = _place(request.guard, [guard["name"] for guard in others]) if position is None else position
    eraser = defence.eraser.model_dump(mode="json", exclude_defaults=True) if defence.eraser else None
    tried = {f"c{i:03d}": {**base, **values} for i, values in enumerate(_product(request.grid))}
    defences: list[dict[str, object]] = []
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
        "gate": {
            **document["gate"],
            "limits": [{"crr_max": target(spec, request)}],
            "retention_waived": _WAIVED,
            "damage_waived": _WAIVED,
        },
        # Other prompts' seeds than the audit's: text cases have no corpus that could be split.
        "seed": identity.int_key({"seed": spec.seed, "split": "calibration"}) % 2**31,
    }
    return parse_spec(document, "the calibration audit", "mend the spec's calibration section"), tried


def _place(guard: str, others: Sequence[str]) -> int:
    """Return the position at which a guard joins a stack that does not list it: last, but IRECE before EGLOCE.

    EGLOCE's latents would be overwritten by an IRECE behind it.
    """
    return others.index("egloce") if guard == "irece" and "egloce" in others else len(others)


def _reduced(scenario: ScenarioSpec, cases: int) -> dict[str, object]:
    """Return the changes to a scenario for calibration, which needs fewer cases than the audit, and no curve."""
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
    scenario = next(s for s in spec.scenarios if s.name == request.scenario)
    if scenario.kind != "text" and not any(entry.concept == request.concept for entry in spec.calibration):
        raise SpecError(
            f"the spec has no calibration pictures of {request.concept!r}, and tuning never touches those of the audit",
            where="calibration",
            next_step="add a section calibration with other pictures than corpus has, as {url: ..., concept: ...}",
        )
    if isinstance(scenario, TextScenario | AdversarialTextScenario) and scenario.prompts is not None:
        raise SpecError(
            f"the prompts of scenario {request.scenario!r} and their seeds are the audit's own, and tuning never touches "
            "what the audit reads",
            where=f"scenarios.{request.scenario}.prompts",
            next_step="tune on a copy of the spec without prompts, whose templates are sampled from other seeds, or on "
            "inverted latents: --scenario latent-whitebox",
        )
    return spec.concept(request.concept), spec.defence(request.defence)


def _product(grid: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not 0 < len(combinations) <= MOST_CANDIDATES:
        raise SpecError(
            f"the sweep has {len(combinations)} candidates; from 1 to {MOST_CANDIDATES} can be tried",
            where="--sweep",
            next_step="give fewer values, such as --sweep t_star=601,401 --sweep tau=0.3,0.5",
        )
    return combinations


def target(spec: Spec, request: Request) -> float:
    """Return the CRR that a candidate should stay below: the policy's own limit for this cell, or 0.1 where it has none."""
    limit = limit_for(spec.gate, request.concept, request.defence, request.scenario)
    return limit.crr_max if limit else 0.1


def splits_of(spec: Spec) -> dict[str, object]:
    """Return object counts and digests of both splits. Raises `CorpusError` when one picture, by its pixels, is in both."""
    return require_disjoint(
        ingest.manifest(spec.calibration, spec.corpus_limits) if spec.calibration else (),
        ingest.manifest(spec.corpus, spec.corpus_limits) if spec.corpus else (),
    )
