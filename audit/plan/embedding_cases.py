"""Cases that a learned embedding attacks with, and the units that learn it. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from audit import files, identity
from audit.attacks import registry
from audit.attacks.parameters import BEST, MAX_BYTES, TextualInversionParameters, candidate
from audit.errors import AbsentFile, SpecError
from audit.plan.builder import Builder
from audit.plan.preflight.unusable import reason
from audit.records import Attempt
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept
from audit.weights import gaps


def learning(scenario: EmbeddingScenario) -> TextualInversionParameters:
    """How a scenario's embedding is learned. Raises `SpecError` for the first bad parameter."""
    found = registry.parse("textual-inversion", scenario.parameters, scenario.preset, f"scenarios.{scenario.name}")
    assert isinstance(found, TextualInversionParameters)
    return found


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
        template = scenario.templates[number % len(scenario.templates)]
        attempt = Attempt(builder.spec.seed + number, template, problem=problems.get(template))
        if attempt.problem is None:
            attempt = dataclasses.replace(attempt, attack_key=units[BEST], attack_item=BEST)
        attempts.append(attempt)
    return attempts


def _units(builder: Builder, concept: Concept, scenario: EmbeddingScenario, model: str | None) -> dict[str, str]:
    """Item -> the unit that reads or learns the concept's embedding."""
    if scenario.embedding is not None:
        digest = file_digest(scenario, concept)
        return builder.attack("embedding-file", {"sha256": digest}, concept, [BEST], together=True)
    p = learning(scenario)
    return builder.attack(
        "textual-inversion",
        p.model_dump(mode="json"),
        concept,
        [BEST, *map(candidate, p.learning_rates)],
        model=model if scenario.name == "embedding-whitebox" else None,
        images=_images(builder, concept.name, p.images, scenario.name),
        together=True,
    )


def _problems(builder: Builder, concept: Concept, scenario: EmbeddingScenario) -> dict[str, str]:
    """Template -> why its cases cannot be made."""
    if scenario.embedding is None:
        missing = builder.unusable.pictures.get(concept.name)
        return dict.fromkeys(scenario.templates, reason(missing)) if missing else {}
    known = {template: (scenario.name, concept.name, template) for template in scenario.templates}
    found = builder.unusable.embeddings
    return {template: reason(found[use]) for template, use in known.items() if use in found}


def file_digest(scenario: EmbeddingScenario, concept: Concept) -> str:
    """Hex SHA-256 of the file that a scenario brings for a concept; inside `gaps.collecting`, a stand-in's for one that
    cannot be opened. Raises `AbsentFile` elsewhere, and `SpecError` for what is no file of an embedding's size."""
    path = Path(scenario.files(concept.name)[concept.name])
    with gaps.noted("embedding"):
        try:
            return hashlib.sha256(files.read_bounded(path, MAX_BYTES)).hexdigest()
        except files.ForeignError as error:
            raise SpecError(
                f"the embedding file cannot be used: {error}",
                where=str(path),
                next_step=f"name an embedding's file in scenario {scenario.name}",
            ) from None
        except OSError as error:
            raise AbsentFile(
                f"the embedding file cannot be read: {error.strerror or error}",
                where=str(path),
                next_step=f"name an existing file in scenario {scenario.name}",
            ) from None
    return gaps.absent_digest(str(path))


def _images(builder: Builder, concept: str, count: int, scenario: str) -> list[str]:
    """`count` readable pictures of the corpus, drawn by their own seeds as the cases of latent scenarios are."""
    known = [i.item for i in builder.items.get(concept, ()) if not i.item.startswith("unreadable-")]
    if len(known) < count:
        raise SpecError(
            f"{scenario} learns from {count} images of {concept!r} and the corpus has {len(known)} that can be read",
            where="corpus",
            next_step=f"add images, or set the scenario's parameters: {{images: {len(known)}}}",
        )
    return sorted(known, key=lambda item: identity.int_key({"seed": builder.spec.seed, "item": item}))[:count]
