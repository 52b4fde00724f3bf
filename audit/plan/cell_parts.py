"""Cells, and the cases that start from reference pictures, as every scenario plans them."""

from __future__ import annotations

from collections.abc import Sequence

from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.preflight.unusable import reason
from audit.records import Attempt, Cell, Control, Role, Scenario
from audit.spec.document import Spec
from audit.spec.scenarios import ScenarioSpec
from audit.spec.sections import Concept


def cell_of(
    concept: Concept,
    subject: str,
    defence: str,
    scenario: ScenarioSpec | None,
    control: Control | None = None,
) -> Cell:
    """Return the cell of a scenario, or of a control that attacks nothing, in which `subject` is sought."""
    kind = Scenario(scenario.kind) if scenario else Scenario.NONE
    role = Role.CONTROL if control else Role.TARGET if subject == concept.name else Role.NEIGHBOUR
    return Cell(-1, concept.name, subject, role, control, defence, scenario.name if scenario else kind.value, kind, 0)


def prompt_for(spec: Spec, template: str | None, subject: str) -> str | None:
    """Return a template with the subject's phrase; None without a template."""
    return template.replace("{phrase}", spec.concept(subject).phrase) if template else None


def reference_cases(builder: Builder, concept: str, count: int, field: str) -> Sequence[Attempt]:
    """Return a case for each of `count` reference pictures; `field` of the spec asks for them.

    Raises `SpecError` when the corpus has fewer.
    """
    missing = builder.unusable.pictures.get(concept)
    if missing is not None:
        return [Attempt(builder.spec.seed + number, problem=reason(missing)) for number in range(count)]
    available = builder.drawn(concept)
    if len(available) < count:
        raise SpecError(
            f"{field} asks for {count} images of {concept!r} and the corpus has {len(available)} different ones",
            where="corpus",
            next_step=f"add images, or lower the number of cases to {len(available)}",
        )
    return available[:count]
