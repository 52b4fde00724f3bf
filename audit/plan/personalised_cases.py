"""Cases with somebody's personalisation on top of a defence's model, and the unit that reads it. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from audit.attacks.parameters import BEST
from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.personalisations import Personalisation
from audit.plan.resolved import Missing
from audit.records import Attempt
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept
from audit.spec.templates import PHRASE

METHOD = "personalisation"


def personalised_cases(
    builder: Builder, concept: Concept, scenario: EmbeddingScenario
) -> tuple[Personalisation, list[Attempt]]:
    """Return the personalisation as units of pictures know it, and the cases.

    The base is the backbone, but for a whole UNet in the white-box scenario, which started from the erased model. All
    defences get the same change, the bare backbone too; what is missing is taken for a LoRA. Raises `SpecError` for a whole
    UNet that would have started from several erased models.
    """
    ref = builder.resolved.personalisations[scenario.personalisations(concept.name)[concept.name]]
    kind: Literal["lora", "dreambooth"] = "lora" if isinstance(ref, Missing) else ref.kind
    base = _base(builder, concept, scenario) if kind == "dreambooth" else None
    parameters: dict[str, JsonValue] = {"sha256": ref.sha256, "kind": kind}
    units = builder.attack(METHOD, parameters, concept, [BEST], model=base, together=True)
    attempts = [
        Attempt(
            seed=builder.spec.seed + number,
            prompt=scenario.templates[number % len(scenario.templates)].replace(PHRASE, concept.phrase),
            attack_key=units[BEST],
            attack_item=BEST,
        )
        for number in range(scenario.cases)
    ]
    return Personalisation(ref.sha256, kind, base), attempts


def _base(builder: Builder, concept: Concept, scenario: EmbeddingScenario) -> str | None:
    if scenario.kind == "embedding-blackbox":
        return None
    defences = [name for name in builder.spec.defence_names() if name != "none"]
    models = {name: builder.model(name, concept) for name in defences}
    if len(set(models.values())) > 1:
        raise SpecError(
            f"a whole network was trained from one erased model, and the defences {', '.join(models)} have different ones",
            where=f"scenarios.{scenario.name}.personalisation",
            next_step="audit each erased model with its own personalisation in a spec of its own, or bring a LoRA",
        )
    return next(iter(models.values()), None)
