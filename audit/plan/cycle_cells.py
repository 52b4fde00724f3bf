"""Cells of cycles of editing and erasing, and the units that make the model of each stage. Imports no torch.

Stage 0 is the erased model. Odd stages have a LoRA on top that was trained on the stage before; the even stage after it is
made by the defence's eraser from that edited model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from audit.attacks.relearning_parameters import item_of
from audit.plan.benign import benign_cases
from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of
from audit.plan.mask_controls import add_with_controls
from audit.plan.personalisations import Edited, Relearned
from audit.plan.relearning_cases import attempts, train, training, untrainable, with_lora
from audit.records import BENIGN_PROMPTS, STAGES, Attempt, Control
from audit.spec.relearning import CyclesScenario
from audit.spec.sections import Concept


@dataclasses.dataclass(frozen=True)
class Stage:
    """One model of a chain: the erase unit that made it (None is the backbone), and the LoRA on top, if it was edited."""

    number: int
    model: str | None
    lora: Relearned | None = None
    problem: str | None = None  # why there is no such model


def cycle_cells(builder: Builder, concept: Concept, scenario: CyclesScenario, defence: str) -> None:
    """Plan the cells of every stage: the concept's, of which the last decides, and those of what must survive.

    On the backbone, which is edited and never erased, these are stage 0 and the odd ones, and once more those of the
    control concept. Raises `SpecError` for too few reference images, and for an eraser that cannot erase again.
    """
    others = list(_others(builder, concept, scenario))
    if defence != "none":
        _plan(builder, concept, scenario, defence, concept, others, None)
        return
    _plan(builder, concept, scenario, defence, concept, others, Control.BACKBONE)
    never = builder.spec.concept(scenario.control_concept)
    _plan(builder, concept, scenario, defence, never, (), Control.UNLEARNED)


def _others(builder: Builder, concept: Concept, scenario: CyclesScenario) -> Iterator[tuple[str, Sequence[Attempt]]]:
    """Yield what must survive at each stage, with its cases: each neighbour, and the benign prompts."""
    for name in concept.neighbours if scenario.beside else ():
        yield name, attempts(builder, builder.spec.concept(name), scenario, scenario.beside)
    if benign := benign_cases(builder.spec, concept, builder.resolved.benign, scenario.benign_cases):
        yield BENIGN_PROMPTS, benign


def _plan(
    builder: Builder,
    concept: Concept,
    scenario: CyclesScenario,
    defence: str,
    subject: Concept,
    others: Sequence[tuple[str, Sequence[Attempt]]],
    control: Control | None,
) -> None:
    """Plan one chain of models that are edited on pictures of `subject`; `control` is the last stage's."""
    own = attempts(builder, subject, scenario, scenario.cases)
    erased = defence != "none"
    last = 2 * scenario.cycles - (not erased)
    stages = _chain(builder, concept, scenario, defence) if erased else _unerased(builder, subject, scenario)
    for stage in stages:
        for sought, cases in ((subject.name, own), *others):
            decides = stage.number == last and sought == subject.name
            cell = cell_of(concept, sought, defence, scenario, control if decides else Control.CHECKPOINT)
            axis = None if decides else STAGES
            cell = dataclasses.replace(cell, perturbation=axis, strength=float(stage.number))
            common = builder.common("prompt", defence, concept, scenario.sampler)
            common = dataclasses.replace(common, model=stage.model, personalisation=stage.lora)
            builder.need(stage.model)
            add_with_controls(builder, cell, common, [_at(stage, case) for case in cases])


def _at(stage: Stage, attempt: Attempt) -> Attempt:
    if stage.problem is not None:
        return dataclasses.replace(attempt, problem=stage.problem)
    return attempt if stage.lora is None else with_lora(attempt, stage.lora)


def _chain(builder: Builder, concept: Concept, scenario: CyclesScenario, defence: str) -> Iterator[Stage]:
    """Yield the stages of a defence: each edit is trained on the model before it, and each erasure starts from the edit."""
    model = builder.model(defence, concept)
    assert model is not None  # the spec's rules ask for an eraser
    yield Stage(0, model)
    p, problem = training(scenario), untrainable(builder, concept, scenario)
    item = item_of(scenario.steps)
    for number in range(1, 2 * scenario.cycles, 2):
        if problem is not None:
            yield from (Stage(number, model, problem=problem), Stage(number + 1, model, problem=problem))
            continue
        lora = Relearned(train(builder, concept, scenario, p, model)[item], item)
        yield Stage(number, model, lora)
        model = builder.erased_again(defence, concept, Edited(model, lora))
        yield Stage(number + 1, model)


def _unerased(builder: Builder, subject: Concept, scenario: CyclesScenario) -> Iterator[Stage]:
    """Yield the stages of the backbone: one training, as long as all edits together."""
    yield Stage(0, None)
    p, problem = training(scenario, scenario.cycles), untrainable(builder, subject, scenario)
    units = train(builder, subject, scenario, p, None) if problem is None else {}
    for edit, step in enumerate(p.checkpoints):
        lora = Relearned(units[item_of(step)], item_of(step)) if problem is None else None
        yield Stage(2 * edit + 1, None, lora, problem)
