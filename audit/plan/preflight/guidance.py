"""Check classifier guidance before anything is computed. Imports no torch."""

from __future__ import annotations

from audit.errors import SpecError
from audit.plan.guidance_cases import rivals
from audit.plan.preflight.clip_models import check_clip, check_tokens, too_long
from audit.plan.resolved import Resolved
from audit.plan.samplers import timesteps
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.sections import Concept
from audit.spec.templates import PHRASE
from audit.weights.references import ModelRef
from audit.weights.schedulers import own_scheduler


def check_guidance(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that each guide is none of the judges', can tell its phrases apart, and acts at some step of the sampler.

    Raises `SpecError` otherwise, and `CheckpointError` for a configuration or a tokenizer that cannot be read.
    """
    for scenario in resolved.spec.scenarios:
        if isinstance(scenario, ClassifierGuidanceScenario):
            _check_window(scenario, backbone)
            for concept in resolved.spec.concepts:
                for subject in (concept.name, *resolved.spec.controls.unlearned):
                    _check_rivals(resolved, scenario, concept, subject)
            _check_guide(scenario, resolved, backbone)


def _check_window(scenario: ClassifierGuidanceScenario, backbone: ModelRef) -> None:
    grid = timesteps(scenario.sampler, own_scheduler(backbone.path))
    start, end = scenario.window
    if not any(end <= timestep <= start for timestep in grid):
        raise SpecError(
            f"classifier guidance: no timestep of the schedule lies in the window {[start, end]}: it runs from {grid[0]} to "
            f"{grid[-1]} in {len(grid)} steps",
            where=f"scenarios.{scenario.name}.window",
            next_step="widen the window",
        )


def _check_rivals(resolved: Resolved, scenario: ClassifierGuidanceScenario, concept: Concept, subject: str) -> None:
    if not rivals(resolved.spec, scenario, concept, subject):
        raise SpecError(
            f"classifier guidance has nothing to tell {subject!r} from: one phrase alone always has probability 1, and no "
            "gradient",
            where=f"scenarios.{scenario.name}.against",
            next_step="name other phrases there, or neighbours of the concept",
        )


def _check_guide(scenario: ClassifierGuidanceScenario, resolved: Resolved, backbone: ModelRef) -> None:
    where = f"scenarios.{scenario.name}.guide"
    ref = check_clip(
        resolved, backbone, scenario.guide, scenario.guide_name,
        who="classifier guidance", field="guide", what="guiding model", where=where,
    )  # fmt: skip
    if ref is None:
        return
    spec, subjects = resolved.spec, resolved.spec.controls.unlearned
    phrases = dict.fromkeys(
        phrase
        for concept in spec.concepts
        for subject in (concept.name, *subjects)
        for phrase in (spec.concept(subject).phrase, *rivals(spec, scenario, concept, subject))
    )
    check_tokens(ref, resolved.tokenizers.of(ref.path), phrases, where)
    templates = [template.replace(PHRASE, phrase) for phrase in phrases for template in scenario.guide_templates]
    for problem in too_long(resolved, ref, templates, "guiding model").values():
        raise SpecError(
            problem, where=f"scenarios.{scenario.name}.guide_templates", next_step="shorten the template or the phrase"
        )
