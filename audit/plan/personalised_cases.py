"""Cases in which somebody's personalisation is on top of a defence's model, and the unit that reads it. Imports no torch."""

from __future__ import annotations

from audit.attacks.parameters import BEST
from audit.checkpoints.personalisation import resolve_personalisation
from audit.errors import SpecError
from audit.plan.builder import Builder
from audit.plan.identities import Personalisation
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
    defences get the same change, the bare backbone too. Raises `CheckpointError` for files that are not there, and
    `SpecError` for a whole UNet that would have started from several erased models.
    """
    ref = resolve_personalisation(scenario.personalisations(concept.name)[concept.name])
    base = _base(builder, concept, scenario) if ref.kind == "dreambooth" else None
    parameters = {"sha256": ref.files.sha256, "kind": ref.kind}
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
    return Personalisation(ref.files.sha256, ref.kind, base), attempts


def _base(builder: Builder, concept: Concept, scenario: EmbeddingScenario) -> str | None:
    if scenario.name == "embedding-blackbox":
        return None
    defences = [name for name in builder.spec.defence_names() if name != "none"]
    models = {name: builder.model(name, concept) for name in defences}
    if len(set(models.values())) > 1:
        raise SpecError(
            f"a whole UNet was trained from one erased model, and the defences {', '.join(models)} have different ones",
            where=f"scenarios.{scenario.name}.personalisation",
            next_step="audit each erased model with its own personalisation in a spec of its own, or bring a LoRA",
        )
    return next(iter(models.values()), None)
