"""The cells of prompts that are sampled with noise after each step, and of the same without it."""

from __future__ import annotations

import dataclasses

from audit.corpus.prompts import prompts
from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of
from audit.plan.identities import StepNoise
from audit.plan.mask_controls import add_with_controls
from audit.records import Attempt, Control
from audit.spec.noise_based import NoiseBasedScenario
from audit.spec.sections import Concept


def noise_based_cells(builder: Builder, concept: Concept, scenario: NoiseBasedScenario, defence: str) -> None:
    """Plan the cell of one defence, and its control: the same prompts and seeds without the noise.

    A text scenario with these prompts and this sampler has made the control's pictures already.
    """
    cases = [
        Attempt(builder.spec.seed + number, prompt)
        for number, prompt in enumerate(prompts(scenario, concept, scenario.cases))
    ]
    noise = StepNoise(scenario.eta, scenario.form, scenario.noise_scale)
    common = dataclasses.replace(builder.common("prompt", defence, concept, scenario.sampler), step_noise=noise)
    backbone = Control.BACKBONE if defence == "none" else None
    add_with_controls(builder, cell_of(concept, concept.name, defence, scenario, backbone), common, cases)
    # Asked for once more, so that the model's unit knows this cell too.
    plain = builder.common("prompt", defence, concept, scenario.sampler)
    builder.add(cell_of(concept, concept.name, defence, scenario, Control.PLAIN_SAMPLING), plain, cases)
