"""The cells of learned or brought embeddings and personalisations, with what was never learned beside them."""

from __future__ import annotations

import dataclasses

from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of
from audit.plan.embedding_cases import embedding_cases
from audit.plan.mask_controls import add_with_controls
from audit.plan.personalised_cases import personalised_cases
from audit.records import Control
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept


def embedding_cells(builder: Builder, concept: Concept, scenario: EmbeddingScenario, defence: str) -> None:
    """Plan the cell of one defence and, where the scenario names one, that of its control concept.

    The control concept is learned as the concept is, and prompted with the same seeds.
    """
    common = builder.common("prompt", defence, concept, scenario.sampler)
    kind = Control.BACKBONE if defence == "none" else None
    cell = cell_of(concept, concept.name, defence, scenario, kind)
    if scenario.personalisation is not None:
        personalisation, cases = personalised_cases(builder, concept, scenario)
        common = dataclasses.replace(common, personalisation=personalisation)
    else:
        cases = embedding_cases(builder, concept, scenario, common.model)
    add_with_controls(builder, cell, common, cases)
    if scenario.control_concept is not None:
        never = builder.spec.concept(scenario.control_concept)
        beside = embedding_cases(builder, never, scenario, common.model)[: builder.spec.controls.cases]
        common = builder.common("prompt", defence, concept, scenario.sampler)
        builder.add(cell_of(concept, never.name, defence, scenario, Control.UNLEARNED), common, beside)
