"""Cases that a learned embedding attacks with, and the units that learn it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audit import identity
from audit.errors import SpecError
from audit.plan_builder import Builder
from audit.scenarios import EmbeddingScenario
from audit.spec import Concept

BEST = "best"  # the item that cases use


def embedding_cases(
    builder: Builder, concept: Concept, scenario: EmbeddingScenario, model: str | None
) -> list[dict[str, Any]]:
    """The cases of one cell. `model` is the erase unit of its defence, which only a white-box attack learns through.

    Raises `SpecError` for an embedding file that cannot be read.
    """
    digest = _file(scenario, concept)
    units = builder.attack("embedding-file", {"sha256": digest}, concept, [BEST], together=True)
    return [
        {
            "seed": builder.spec.seed + number,
            "prompt": scenario.templates[number % len(scenario.templates)],
            "attack_key": units[BEST],
            "attack_item": BEST,
        }
        for number in range(scenario.cases)
    ]


def _file(scenario: EmbeddingScenario, concept: Concept) -> str:
    path = Path(scenario.files(concept.name)[concept.name])
    try:
        return identity.file_sha256(path)
    except OSError as error:
        raise SpecError(
            f"the embedding file cannot be read: {error.strerror or error}",
            where=str(path),
            next_step=f"name an existing file in scenario {scenario.name}",
        ) from None
