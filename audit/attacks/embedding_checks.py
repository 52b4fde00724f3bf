"""What can be said against the embedding attacks of a spec before anything is computed."""

from __future__ import annotations

from pathlib import Path

from audit.attacks.embedding_files import check_embedding
from audit.attacks.parameters import MARK
from audit.model_refs import ModelRef
from audit.scenarios import EmbeddingScenario
from audit.spec import Concept, Spec


def written_out(spec: Spec, backbone: ModelRef) -> list[str]:
    """The templates of every embedding scenario with as many one-token words as their embeddings have vectors.

    Raises `SpecError` for a file that this backbone cannot use.
    """
    texts = []
    for scenario in spec.scenarios:
        if isinstance(scenario, EmbeddingScenario):
            vectors = max(_vectors(scenario, concept, backbone) for concept in spec.concepts)
            texts += [template.replace(MARK, " ".join(["a"] * vectors)) for template in scenario.templates]
    return texts


def _vectors(scenario: EmbeddingScenario, concept: Concept, backbone: ModelRef) -> int:
    return len(check_embedding(Path(scenario.files(concept.name)[concept.name]), backbone).vectors)
