"""Check that the stages of cycles can be judged by what must survive at each of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from audit.errors import SpecError
from audit.plan.benign import BenignPrompt, benign_cases, fewest_pairs
from audit.spec.document import Spec
from audit.spec.relearning import CyclesScenario


def require_stages_judged(spec: Spec, rules: Collection[Mapping[str, object]], prompts: Sequence[BenignPrompt]) -> None:
    """Check that every judge of retention sees enough of what is drawn at each stage of cycles; nothing drawn is enough.

    Raises `SpecError` otherwise: such a run could never end in PASS.
    """
    if spec.gate.retention_waived is not None:
        return
    needed = fewest_pairs(spec.gate)
    for scenario in (one for one in spec.scenarios if isinstance(one, CyclesScenario)):
        for concept in spec.concepts:
            benign = [str(case.subject) for case in benign_cases(spec, concept, prompts, scenario.benign_cases)]
            drawn = [*benign, *(name for name in concept.neighbours for _ in range(scenario.beside))]
            for judge in spec.gate.judges_of_retention() if drawn else ():
                seen = {rule["subject"] for rule in rules if rule["detector"] == judge}
                pairs = sum(subject in seen for subject in drawn)
                if pairs < needed:
                    raise SpecError(
                        f"detector {judge!r} can judge {pairs} of the pictures that must survive at each stage of "
                        f"{concept.name!r}, and retention_min {spec.gate.retention_min:g} takes at least {needed}, should all "
                        "of them survive",
                        where=f"scenarios.{scenario.name}",
                        next_step="raise its neighbour_cases or benign_cases, set both to 0 to judge nothing at the stages, or "
                        "waive the limit: gate: {retention_waived: <the reason>}",
                    )
