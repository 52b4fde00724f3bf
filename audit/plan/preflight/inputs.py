"""What can be said of a spec's inputs before it is planned: the prompts that it makes, and which parts cost their cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from audit.corpus.prompts import prompts
from audit.errors import CorpusError, SpecError
from audit.plan.adversarial_cases import searched_texts
from audit.plan.benign import benign_texts
from audit.plan.planner import inversion_prompts
from audit.plan.preflight.prompts import unreadable_prompts
from audit.plan.preflight.unusable import EmbeddingUse, Unusable
from audit.spec.document import Spec
from audit.spec.scenarios import EmbeddingScenario, LatentScenario, ScenarioSpec, TextScenario
from audit.spec.templates import PHRASE
from audit.weights import gaps
from audit.weights.references import ModelRef


def unusable_parts(spec: Spec, backbone: ModelRef, pictures: Mapping[str, CorpusError]) -> Unusable:
    """Prompts that a text encoder cannot read whole and embedding files that cannot be used, beside concepts without
    `pictures`. Of texts nothing is said where the backbone's files are absent.

    Raises `SpecError` for a search or a learning that this backbone has no room for, `AbsentFile` for an embedding file
    that cannot be opened, and `CheckpointError` for a tokenizer that cannot be loaded; the last two are noted inside
    `gaps.collecting`.
    """
    if gaps.is_absent(backbone.sha256):
        return Unusable(pictures=pictures)
    unread: dict[str, SpecError] = {}
    embeddings: dict[EmbeddingUse, SpecError] = {}
    with gaps.noted("model"):
        texts = dict.fromkeys([*foreseen_prompts(spec), *searched_texts(spec, backbone)])
        unread = unreadable_prompts(spec, backbone, list(texts))
    if any(isinstance(scenario, EmbeddingScenario) and scenario.personalisation is None for scenario in spec.scenarios):
        from audit.plan.preflight.embeddings import check_learning, unusable_embeddings  # imports torch

        with gaps.noted("model"):
            check_learning(spec, backbone)
            embeddings = unusable_embeddings(spec, backbone)
    return Unusable(embeddings, pictures, unread)


def foreseen_prompts(spec: Spec) -> list[str]:
    """Every prompt, each once, that templates make of the spec's concepts: to sample with, and to invert under."""
    made = (prompt for scenario in spec.scenarios for prompt in _prompts(scenario, spec))
    return list(dict.fromkeys([*made, *benign_texts(spec), *sorted(inversion_prompts(spec))]))


def _prompts(scenario: ScenarioSpec, spec: Spec) -> Iterator[str]:
    if isinstance(scenario, TextScenario):
        for concept in spec.concepts:
            yield from prompts(scenario, concept, scenario.cases)
            for name in concept.neighbours:
                yield from prompts(scenario, spec.concept(name), spec.neighbour_cases)
    elif isinstance(scenario, LatentScenario) and scenario.regeneration_prompt:
        yield from (scenario.regeneration_prompt.replace(PHRASE, subject.phrase) for subject in spec.subjects())
    elif isinstance(scenario, EmbeddingScenario) and scenario.personalisation is not None:
        for concept in spec.concepts:
            yield from (template.replace(PHRASE, concept.phrase) for template in scenario.templates)
