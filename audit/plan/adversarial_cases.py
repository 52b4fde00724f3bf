"""Cases attacked with an adversarial prompt, and the units that search for the prompt. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from audit.attacks import registry
from audit.attacks.parameters import AttackMethod, Parameters, RingABellParameters
from audit.attacks.token_search_parameters import RANDOM, TokenSearchParameters
from audit.corpus.prompts import PromptSet, cases_of
from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.preflight.unusable import reason
from audit.records import Attempt
from audit.spec.document import Spec
from audit.spec.scenarios import AdversarialTextScenario
from audit.spec.sections import Concept
from audit.weights.files import read_json
from audit.weights.references import ModelRef

_PROMPT = "prompt-"  # begins the items of a search


def adversarial_cases(
    builder: Builder,
    concept: Concept,
    scenario: AdversarialTextScenario,
    chosen: PromptSet | None,
    model: str | None = None,
) -> list[Attempt]:
    """Return the cases of one cell. They are the same for every defence where the search uses only the backbone's text encoder.

    A white-box search goes through `model`, the erase unit of the cell's defence, and learns from the concept's pictures.

    Every prompt has a unit of its own, so that a failed search costs its own cases; where the text encoder cannot read
    what the search begins with, there is none. Raises `SpecError` for parameters that the method does not take, and for
    a prompt set with too few rows.
    """
    if chosen is not None:
        return cases_of(chosen, concept, scenario.cases, builder.spec.seed, f"scenarios.{scenario.name}")
    parsed = _parsed(scenario)
    unread = [text for text in parsed.first_texts(concept.phrase) if text in builder.unusable.prompts]
    if unread:
        problem = reason(builder.unusable.prompts[unread[0]])
        return [Attempt(builder.spec.seed + number, problem=problem) for number in range(scenario.cases)]
    parameters = parsed.model_dump(mode="json")
    items = [f"{_PROMPT}{number}" for number in range(min(scenario.found, scenario.cases))]
    method, images = _method(scenario), list[str]()
    if method.white_box:
        wanted = int(getattr(parsed, "images", 0))
        missing = builder.unusable.pictures.get(concept.name) if wanted else None
        if missing is not None:
            return [Attempt(builder.spec.seed + n, problem=reason(missing)) for n in range(scenario.cases)]
        images = _targets(builder, concept.name, scenario, wanted)
    units = {
        item: builder.attack(
            scenario.method,
            parameters,
            concept,
            [item, _control_of(item)] if method.random_control else [item],
            model=model if method.white_box else None,
            images=images,
            together=True,
        )[item]
        for item in items
    }
    return [
        # Without a prompt of its own: the whole prompt is what the attack finds.
        Attempt(builder.spec.seed + number, attack_key=units[item], attack_item=item)
        for number, item in zip(range(scenario.cases), itertools.cycle(items), strict=False)
    ]


def random_token_cases(scenario: AdversarialTextScenario, cases: Sequence[Attempt]) -> list[Attempt]:
    """Return the control of a search's cases: the same seeds, and random tokens in place of those searched for.

    There are none for a search without such a control, or where nothing was searched for.
    """
    if scenario.prompts is not None or not _method(scenario).random_control:
        return []
    return [dataclasses.replace(case, attack_item=_control_of(case.attack_item)) for case in cases if case.attack_item]


def _method(scenario: AdversarialTextScenario) -> AttackMethod:
    return registry.ATTACKS.find(scenario.method, f"scenarios.{scenario.name}")


def _control_of(item: str) -> str:
    return RANDOM + item.removeprefix(_PROMPT)


def _targets(builder: Builder, concept: str, scenario: AdversarialTextScenario, count: int) -> list[str]:
    """Return the `count` pictures of the corpus that a white-box search has as targets."""
    readable = builder.readable(concept)
    if len(readable) < count:
        raise SpecError(
            f"{scenario.name} searches with {count} images of {concept!r} and the corpus has {len(readable)} that can be read",
            where="corpus",
            next_step=f"add images of role target, or set the scenario's parameters: {{images: {max(1, len(readable))}}}",
        )
    return list(readable[:count])


def searched_texts(spec: Spec, backbone: ModelRef) -> list[str]:
    """Return the prompts that searches start from.

    Raises `SpecError` when a search asks for more tokens than the text encoder reads.
    """
    length = int(read_json(backbone.path / "text_encoder" / "config.json")["max_position_embeddings"])
    texts = []
    for scenario in spec.scenarios:
        if isinstance(scenario, AdversarialTextScenario) and scenario.prompts is None:
            parameters = _parsed(scenario)
            searched = parameters if isinstance(parameters, RingABellParameters | TokenSearchParameters) else None
            if searched is not None and searched.tokens > length - 2:
                raise SpecError(
                    f"attack {scenario.method} is asked for {searched.tokens} tokens, and the backbone's text encoder "
                    f"reads {length - 2} between start and end",
                    where=f"scenarios.{scenario.name}",
                    next_step=f"set parameters: {{tokens: {length - 2}}} or fewer, or choose another preset",
                )
            texts += [text for concept in spec.concepts for text in parameters.first_texts(concept.phrase)]
    return texts


def _parsed(scenario: AdversarialTextScenario) -> Parameters:
    where = f"scenarios.{scenario.name}"
    return registry.parse(scenario.method, scenario.parameters, scenario.preset, where)
