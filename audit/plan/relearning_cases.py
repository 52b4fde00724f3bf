"""Cases of a relearned model, and the unit that trains it. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from audit.attacks import registry
from audit.attacks.relearning_parameters import METHOD, RelearningParameters, item_of
from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.personalisations import Relearned
from audit.plan.preflight.unusable import reason
from audit.records import Attempt
from audit.spec.fields import SpecFields
from audit.spec.relearning import CyclesScenario, RelearningScenario, TrainingScenario
from audit.spec.scenarios import LatentScenario
from audit.spec.sections import Concept
from audit.spec.templates import PHRASE


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One point of a curve: the training steps, the LoRA on top of the model (None is the model as it is), and the cases."""

    step: int
    last: bool
    personalisation: Relearned | None
    attempts: Sequence[Attempt]


def training(scenario: TrainingScenario, edits: int = 1) -> RelearningParameters:
    """Return the parameters by which a scenario trains; of cycles those of one training as long as so many `edits`.

    Raises `SpecError` for the first bad one.
    """
    given = dict(scenario.parameters)
    if isinstance(scenario, CyclesScenario):
        given["checkpoints"] = [scenario.steps * edit for edit in range(1, edits + 1)]
    parameters = registry.parse(METHOD.name, given, scenario.preset, f"scenarios.{scenario.name}")
    assert isinstance(parameters, RelearningParameters)
    return parameters


def captions(scenario: TrainingScenario, concept: Concept) -> list[str]:
    """Return the prompts that a training on pictures of `concept` reads: their captions, and those of the prior's pictures."""
    p = training(scenario)
    own = [template.replace(PHRASE, concept.phrase) for template in p.templates]
    return [*own, *(p.prior_prompts if p.prior_weight else ())]


def prompts_of(scenario: TrainingScenario, concept: Concept) -> list[str]:
    """Return the prompts of the scenario's cases, in turn."""
    return [template.replace(PHRASE, concept.phrase) for template in scenario.templates]


def relearning_cases(
    builder: Builder, concept: Concept, scenario: RelearningScenario, model: str | None
) -> Iterator[Checkpoint]:
    """Yield the checkpoints of one training, of `concept` on top of the model of an erase unit, None being the backbone.

    Prompts and seeds are the same at each. Without pictures, or with a caption that cannot be read whole, the cases of a
    trained model have a problem. Raises `SpecError` for fewer reference images than the training takes.
    """
    p, plain = training(scenario), attempts(builder, concept, scenario, scenario.cases)
    problem = untrainable(builder, concept, scenario)
    units = train(builder, concept, scenario, p, model) if problem is None else {}
    for step in p.checkpoints:
        last, item = step == p.checkpoints[-1], item_of(step)
        if not step:
            yield Checkpoint(step, last, None, plain)
        elif problem is not None:
            yield Checkpoint(step, last, None, [dataclasses.replace(one, problem=problem) for one in plain])
        else:
            lora = Relearned(units[item], item)
            yield Checkpoint(step, last, lora, [with_lora(one, lora) for one in plain])


def attempts(builder: Builder, subject: Concept, scenario: TrainingScenario, count: int) -> Sequence[Attempt]:
    """Return `count` cases that prompt `subject`, with the same prompts and seeds for whatever was trained."""
    prompts = prompts_of(scenario, subject)
    return [Attempt(builder.spec.seed + n, prompts[n % len(prompts)]) for n in range(count)]


def with_lora(attempt: Attempt, lora: Relearned) -> Attempt:
    """Return the attempt, which needs a LoRA and cannot be assessed without it."""
    return dataclasses.replace(attempt, attack_key=lora.attack, attack_item=lora.item)


def untrainable(builder: Builder, concept: Concept, scenario: TrainingScenario) -> str | None:
    """Return why nothing can be trained on pictures of `concept`: none can be read, or a caption cannot be read whole."""
    errors = [
        builder.unusable.pictures.get(concept.name),
        *map(builder.unusable.prompts.get, captions(scenario, concept)),
    ]
    return next((reason(error) for error in errors if error is not None), None)


def train(
    builder: Builder, concept: Concept, scenario: TrainingScenario, p: RelearningParameters, model: str | None
) -> dict[str, str]:
    """Plan one training on pictures of `concept`; return the attack unit of each checkpoint's item.

    Raises `SpecError` for fewer reference images than the training takes.
    """
    images = reference_pictures(builder, concept.name, p.images, scenario.name)
    items, parameters = [*map(item_of, p.trained)], p.model_dump(mode="json")
    return builder.attack(METHOD.name, parameters, concept, items, model=model, images=images, together=True)


def held_out(spec: SpecFields, concept: str) -> int:
    """Return how many pictures of a concept are cases of latent scenarios, on which nothing is trained."""
    latent = [scenario.cases for scenario in spec.scenarios if isinstance(scenario, LatentScenario)]
    if not latent:
        return 0
    return max(latent) if any(own.name == concept for own in spec.concepts) else spec.controls.cases


def reference_pictures(builder: Builder, concept: str, count: int, scenario: str) -> Sequence[str]:
    """Return `count` readable pictures of a concept that are no case of a latent scenario.

    Raises `SpecError` when the corpus has fewer.
    """
    audited = {attempt.item for attempt in builder.drawn(concept)[: held_out(builder.spec, concept)]}
    free = [item for item in builder.readable(concept) if item not in audited]
    if len(free) < count:
        beside = f" beside the {len(audited)} that latent scenarios audit" if audited else ""
        raise SpecError(
            f"{scenario} trains on {count} images of {concept!r} and the corpus has {len(free)} that can be read{beside}",
            where="corpus",
            next_step=f"add images, or set the scenario's parameters: {{images: {max(1, len(free))}}}",
        )
    return free[:count]
