"""Collect the prompts of a spec, and find those that a text encoder cannot read."""

from __future__ import annotations

from collections.abc import Iterator

from audit.corpus.prompts import prompts
from audit.errors import SpecError
from audit.plan.adversarial_cases import searched_texts
from audit.plan.benign import benign_texts
from audit.plan.planner import inversion_prompts
from audit.plan.preflight.prompts import unreadable_prompts
from audit.plan.relearning_cases import captions, prompts_of
from audit.plan.resolved import Resolved
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.document import Spec
from audit.spec.noise_based import NoiseBasedScenario
from audit.spec.picture_scenarios import PictureScenario
from audit.spec.relearning import CyclesScenario, TrainingScenario
from audit.spec.scenarios import EmbeddingScenario, LatentScenario, ScenarioSpec, TextScenario
from audit.spec.templates import PHRASE
from audit.weights.references import ModelRef


def unusable_prompts(resolved: Resolved, backbone: ModelRef) -> dict[str, SpecError]:
    """Return why prompts of the spec cannot be read in full: to sample with, to invert under, or to search from.

    Raises `SpecError` for a search with more tokens than this backbone reads, and `CheckpointError` for a tokenizer
    that cannot be used.
    """
    texts = dict.fromkeys([*_planned_prompts(resolved), *searched_texts(resolved.spec, backbone)])
    return unreadable_prompts(resolved, backbone, list(texts))


def _planned_prompts(resolved: Resolved) -> list[str]:
    """Return every prompt, each once, that templates make of the spec's concepts: to sample with, and to invert under."""
    spec = resolved.spec
    sampled = (prompt for scenario in spec.scenarios for prompt in _prompts(scenario, spec))
    return list(dict.fromkeys([*sampled, *benign_texts(spec, resolved.benign), *sorted(inversion_prompts(spec))]))


def _prompts(scenario: ScenarioSpec, spec: Spec) -> Iterator[str]:
    if isinstance(scenario, TextScenario):
        for concept in spec.concepts:
            yield from prompts(scenario, concept, scenario.cases)
            for name in concept.neighbours if scenario == spec.first_text() else ():
                yield from prompts(scenario, spec.concept(name), spec.neighbour_cases)
    elif isinstance(scenario, NoiseBasedScenario):
        for concept in spec.concepts:
            yield from prompts(scenario, concept, scenario.cases)
    elif isinstance(scenario, LatentScenario) and scenario.regeneration_prompt:
        yield from (scenario.regeneration_prompt.replace(PHRASE, subject.phrase) for subject in spec.subjects())
    elif isinstance(scenario, PictureScenario | ClassifierGuidanceScenario) and scenario.prompt:
        yield from (scenario.prompt.replace(PHRASE, subject.phrase) for subject in spec.subjects())
    elif isinstance(scenario, EmbeddingScenario) and scenario.personalisation is not None:
        for concept in spec.concepts:
            yield from (template.replace(PHRASE, concept.phrase) for template in scenario.templates)
    elif isinstance(scenario, TrainingScenario):
        for concept in (*spec.concepts, spec.concept(scenario.control_concept)):
            yield from (*prompts_of(scenario, concept), *captions(scenario, concept))
        for concept in spec.concepts if isinstance(scenario, CyclesScenario) and scenario.beside else ():
            yield from (text for name in concept.neighbours for text in prompts_of(scenario, spec.concept(name)))
