"""Cases attacked with a learned embedding, and the units that learn it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from audit.attacks import registry
from audit.attacks.parameters import BEST, TextualInversionParameters, candidate
from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.preflight.unusable import reason
from audit.records import Attempt
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept


def learning(scenario: EmbeddingScenario) -> TextualInversionParameters:
    """Return the parameters by which a scenario's embedding is learned. Raises `SpecError` for the first bad one."""
    parameters = registry.parse("textual-inversion", scenario.parameters, scenario.preset, f"scenarios.{scenario.name}")
    assert isinstance(parameters, TextualInversionParameters)
    return parameters


def embedding_cases(
    builder: Builder, concept: Concept, scenario: EmbeddingScenario, model: str | None
) -> list[Attempt]:
    """Return the cases of one cell. `model` is the erase unit of its defence, which only a white-box attack learns through.

    A template that the concept's file cannot be used with gives cases with a problem, as does a concept without pictures
    to learn from. Raises `SpecError` for an embedding file that cannot be opened, and for fewer reference images than the
    attack learns from.
    """
    problems = _problems(builder, concept, scenario)
    usable = len(problems) < len(set(scenario.templates))  # else there is no case to attack for
    units = _units(builder, concept, scenario, model) if usable else {}
    attempts = []
    for number in range(scenario.cases):
        template, seed = scenario.templates[number % len(scenario.templates)], builder.spec.seed + number
        if template in problems:
            attempts.append(Attempt(seed, template, problem=problems[template]))
        else:
            attempts.append(Attempt(seed, template, attack_key=units[BEST], attack_item=BEST))
    return attempts


def _units(builder: Builder, concept: Concept, scenario: EmbeddingScenario, model: str | None) -> dict[str, str]:
    """Return item -> the unit that reads or learns the concept's embedding."""
    if scenario.embedding is not None:
        digest = builder.resolved.embeddings[scenario.name, concept.name].sha256
        return builder.attack("embedding-file", {"sha256": digest}, concept, [BEST], together=True)
    p = learning(scenario)
    return builder.attack(
        "textual-inversion",
        p.model_dump(mode="json"),
        concept,
        [BEST, *map(candidate, p.learning_rates)],
        model=model if scenario.kind == "embedding-whitebox" else None,
        images=_images(builder, concept.name, p.images, scenario.name),
        together=True,
    )


def _problems(builder: Builder, concept: Concept, scenario: EmbeddingScenario) -> dict[str, str]:
    """Return template -> why its cases cannot be made."""
    if scenario.embedding is None:
        missing = builder.unusable.pictures.get(concept.name)
        return dict.fromkeys(scenario.templates, reason(missing)) if missing else {}
    uses = {template: (scenario.name, concept.name, template) for template in scenario.templates}
    errors = builder.unusable.embeddings
    return {template: reason(errors[use]) for template, use in uses.items() if use in errors}


def _images(builder: Builder, concept: str, count: int, scenario: str) -> Sequence[str]:
    """Return `count` readable pictures of the corpus, drawn by their own seeds as the cases of latent scenarios are."""
    readable = builder.readable(concept)
    if len(readable) < count:
        raise SpecError(
            f"{scenario} learns from {count} images of {concept!r} and the corpus has {len(readable)} that can be read",
            where="corpus",
            next_step=f"add images, or set the scenario's parameters: {{images: {len(readable)}}}",
        )
    return readable[:count]
