"""The cells of prompts that are sampled under classifier guidance, and of what they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of, prompt_for
from audit.plan.identities import GenerateIdentity
from audit.plan.mask_controls import add_with_controls
from audit.records import Attempt, Control
from audit.spec.classifier_guidance import ClassifierGuidance, ClassifierGuidanceScenario
from audit.spec.document import Spec
from audit.spec.sections import Concept


def guidance_cells(builder: Builder, concept: Concept, scenario: ClassifierGuidanceScenario, defence: str) -> None:
    """Plan the cell of one defence, and the cells that it is compared with.

    `random-direction` has the same prompts and seeds, and steps of the same length that lead nowhere in particular. An
    unlearned class is sought in pictures that are guided to it under its own prompt: what the guide draws by itself.
    """
    controls = builder.spec.controls
    backbone = Control.BACKBONE if defence == "none" else None
    cases = _cases(builder, scenario, concept.name, scenario.cases)
    common = _common(builder, concept, scenario, defence, concept.name)
    add_with_controls(builder, cell_of(concept, concept.name, defence, scenario, backbone), common, cases)

    common = _common(builder, concept, scenario, defence, concept.name)
    assert common.guidance is not None
    random = dataclasses.replace(common, guidance=dataclasses.replace(common.guidance, direction="random"))
    builder.add(cell_of(concept, concept.name, defence, scenario, Control.RANDOM_DIRECTION), random, cases)
    for name in controls.unlearned:
        unlearned = _cases(builder, scenario, name, min(controls.cases, scenario.cases))
        cell = cell_of(concept, name, defence, scenario, Control.UNLEARNED)
        builder.add(cell, _common(builder, concept, scenario, defence, name), unlearned)


def rivals(spec: Spec, scenario: ClassifierGuidanceScenario, concept: Concept, subject: str) -> tuple[str, ...]:
    """Return the phrases that `subject`'s is told from, in the cells of `concept`: its neighbours', and the scenario's own.

    CLIP reads no case, so that its own phrase in other letters is none of them.
    """
    own = spec.concept(subject).phrase.casefold()
    phrases = [*(spec.concept(name).phrase for name in concept.neighbours), *scenario.against]
    return tuple(phrase for phrase in dict.fromkeys(phrases) if phrase.casefold() != own)


def _cases(builder: Builder, scenario: ClassifierGuidanceScenario, subject: str, count: int) -> Sequence[Attempt]:
    prompt = prompt_for(builder.spec, scenario.prompt, subject) or ""
    return [Attempt(builder.spec.seed + number, prompt) for number in range(count)]


def _common(
    builder: Builder, concept: Concept, scenario: ClassifierGuidanceScenario, defence: str, subject: str
) -> GenerateIdentity:
    """Return the common part of the pictures' identities, of which the model's unit knows the next cell."""
    guidance = ClassifierGuidance(
        guide_sha256=builder.resolved.energies[scenario.guide_name].sha256,
        phrase=builder.spec.concept(subject).phrase,
        against=rivals(builder.spec, scenario, concept, subject),
        templates=scenario.guide_templates,
        scale=scenario.scale,
        normalise=scenario.normalise,
        window=scenario.window,
        gradient=scenario.gradient,
        views=scenario.views,
    )
    return dataclasses.replace(builder.common("prompt", defence, concept, scenario.sampler), guidance=guidance)
