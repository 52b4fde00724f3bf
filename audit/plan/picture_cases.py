"""The cells of probes that start from pictures: of the concept, of other concepts, and of unlearned classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of, prompt_for, reference_cases
from audit.plan.identities import FromPicture, GenerateIdentity
from audit.plan.mask_controls import add_with_controls
from audit.records import Attempt, Control
from audit.spec.picture_scenarios import CompletionScenario, Img2ImgScenario
from audit.spec.sections import Concept


def picture_cells(
    builder: Builder, concept: Concept, scenario: Img2ImgScenario | CompletionScenario, defence: str
) -> None:
    """Plan the cell of a probe from pictures, and the cells that it is compared with, through one defence.

    `other-pictures` has the prompt and the seeds of the first cases and pictures of another concept, and seeks the same:
    what the prompt and the model give without the concept's own pictures. An unlearned class is sought in its own pictures
    under its own prompt: what the picture alone carries. Raises `SpecError` for fewer pictures than cases.
    """
    controls = builder.spec.controls
    common = _common(builder, concept, scenario, defence)
    prompt = prompt_for(builder.spec, scenario.prompt, concept.name) or ""
    backbone = Control.BACKBONE if defence == "none" else None
    cases = _prompted(reference_cases(builder, concept.name, scenario.cases, scenario.name), prompt)
    add_with_controls(builder, cell_of(concept, concept.name, defence, scenario, backbone), common, cases)

    other = scenario.other_pictures(builder.spec.corpus, concept.name)
    if other is not None:
        few = min(controls.cases, scenario.cases)
        pictures = reference_cases(builder, other, few, "controls.cases")
        moved = [
            dataclasses.replace(picture, seed=case.seed, prompt=prompt)
            for picture, case in zip(pictures, cases, strict=False)
        ]
        cell = cell_of(concept, concept.name, defence, scenario, Control.OTHER_PICTURES)
        builder.add(cell, _common(builder, concept, scenario, defence), moved)
    for name in controls.unlearned:
        own = prompt_for(builder.spec, scenario.prompt, name) or ""
        unlearned = _prompted(reference_cases(builder, name, controls.cases, "controls.unlearned"), own)
        cell = cell_of(concept, name, defence, scenario, Control.UNLEARNED)
        builder.add(cell, _common(builder, concept, scenario, defence), unlearned)


def _common(
    builder: Builder, concept: Concept, scenario: Img2ImgScenario | CompletionScenario, defence: str
) -> GenerateIdentity:
    """Return the common part of the pictures' identities, of which the model's unit knows the next cell."""
    known = scenario.known if isinstance(scenario, CompletionScenario) else None
    common = builder.common("picture", defence, concept, scenario.sampler)
    return dataclasses.replace(common, picture=FromPicture(scenario.denoised_steps, known))


def _prompted(cases: Sequence[Attempt], prompt: str) -> list[Attempt]:
    return [dataclasses.replace(case, prompt=prompt) for case in cases]
