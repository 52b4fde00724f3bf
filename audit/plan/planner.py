"""Plan cells, cases and units of what a spec names, without torch and without loading any model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from audit.corpus.prompts import PromptSet, cases_of, prompts
from audit.plan.adversarial_cases import adversarial_cases, random_token_cases
from audit.plan.benign import BenignPrompt, benign_cases, is_judged, sampler_of
from audit.plan.builder import Builder
from audit.plan.cell_parts import cell_of, prompt_for, reference_cases
from audit.plan.cycle_cells import cycle_cells
from audit.plan.document import KINDS, Draft, Plan
from audit.plan.embedding_cells import embedding_cells
from audit.plan.guidance_cases import guidance_cells
from audit.plan.identities import Source
from audit.plan.instruments import instruments_of, quality_of, rules_of
from audit.plan.inversions import Inversion
from audit.plan.mask_controls import add_with_controls
from audit.plan.noise_based_cases import noise_based_cells
from audit.plan.picture_cases import picture_cells
from audit.plan.preflight.unusable import Checked, require_some
from audit.plan.quality import plan_quality
from audit.plan.relearning_cases import relearning_cases
from audit.plan.resolved import Missing, Resolved, raise_first
from audit.progress.steps import counted
from audit.records import BENIGN_PROMPTS, TRAINING_STEPS, Attempt, Cell, Control, Role, Scenario
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.document import Spec
from audit.spec.noise_based import NoiseBasedScenario
from audit.spec.perturbation import Perturbation
from audit.spec.picture_scenarios import PictureScenario
from audit.spec.relearning import CyclesScenario, RelearningScenario
from audit.spec.scenarios import AdversarialTextScenario, EmbeddingScenario, LatentScenario, TextScenario
from audit.spec.sections import Concept


def build_plan(resolved: Resolved, checked: Checked, *, run_id: str, created_at: str) -> Plan:
    """Return the complete plan of a run. Raises the error of the first problem, and what `build_draft` raises."""
    raise_first([*resolved.problems, *checked.problems])
    draft = build_draft(resolved, checked, run_id=run_id, created_at=created_at)
    return Plan(**{field.name: getattr(draft, field.name) for field in dataclasses.fields(draft)})


def build_draft(resolved: Resolved, checked: Checked, *, run_id: str, created_at: str) -> Draft:
    """Plan a run, with or without all inputs of `resolved`. Unusable inputs become cases with a problem.

    Raises `SpecError` when a scenario or control asks for more reference images than the corpus has, or for more cases
    than its prompt set has rows, and the `AuditError` behind a scenario of which no case can be made.
    """
    spec, instruments, quality = resolved.spec, instruments_of(resolved), quality_of(resolved)
    builder = Builder(resolved, checked.unusable)
    for concept in counted(spec.concepts, "plan", len(spec.concepts), "concepts"):
        for scenario in spec.scenarios:
            chosen = checked.prompt_sets.get(scenario.name)
            for defence in spec.defence_names():
                if isinstance(scenario, TextScenario):
                    _text_cells(builder, concept, scenario, defence, chosen)
                elif isinstance(scenario, AdversarialTextScenario):
                    _adversarial_cell(builder, concept, scenario, defence, chosen)
                elif isinstance(scenario, EmbeddingScenario):
                    embedding_cells(builder, concept, scenario, defence)
                elif isinstance(scenario, PictureScenario):
                    picture_cells(builder, concept, scenario, defence)
                elif isinstance(scenario, NoiseBasedScenario):
                    noise_based_cells(builder, concept, scenario, defence)
                elif isinstance(scenario, ClassifierGuidanceScenario):
                    guidance_cells(builder, concept, scenario, defence)
                elif isinstance(scenario, RelearningScenario):
                    _relearning_cells(builder, concept, scenario, defence)
                elif isinstance(scenario, CyclesScenario):
                    cycle_cells(builder, concept, scenario, defence)
                else:
                    _latent_cells(builder, concept, scenario, defence)
        _benign_cells(builder, concept, resolved.benign)
        _control_cells(builder, concept)
    builder.detect(instruments)
    comparisons = plan_quality(builder, quality)
    cases, units = builder.tables()
    draft = Draft(
        run_id=run_id,
        name=spec.name,
        created_at=created_at,
        spec=spec,
        backbone=_backbone_facts(resolved),
        cells=tuple(builder.cells),
        cases=cases,
        units=units,
        instruments=tuple(instruments),
        rules=tuple(rules_of(resolved)),
        corpus=resolved.pictures.facts(),
        prompt_sets={name: chosen.facts() for name, chosen in checked.prompt_sets.items()},
        quality=tuple(quality),
        comparisons=comparisons,
    )
    require_some(draft, checked.unusable)
    return draft


def _backbone_facts(resolved: Resolved) -> dict[str, object]:
    backbone = resolved.backbone
    facts: dict[str, object] = {"name": backbone.name, "sha256": backbone.sha256}
    if isinstance(backbone, Missing):
        return facts
    return {**facts, "source": backbone.source, "revision": backbone.revision, "files": dict(backbone.files)}


def _text_cells(
    builder: Builder, concept: Concept, scenario: TextScenario, defence: str, chosen: PromptSet | None
) -> None:
    common = builder.common("prompt", defence, concept, scenario.sampler)
    control = Control.BACKBONE if defence == "none" else None
    subjects = [(concept, scenario.cases, control)]
    if builder.spec.neighbour_cases and scenario == builder.spec.first_text():  # a pair counts once
        subjects += [(builder.spec.concept(n), builder.spec.neighbour_cases, None) for n in concept.neighbours]
    for subject, count, kind in subjects:
        cases = [
            Attempt(builder.spec.seed + number, prompt)
            for number, prompt in enumerate(prompts(scenario, subject, count))
        ]
        if chosen is not None and (subject is concept or chosen.names(subject)):
            cases = cases_of(chosen, subject, count, builder.spec.seed, f"scenarios.{scenario.name}")
        add_with_controls(builder, cell_of(concept, subject.name, defence, scenario, kind), common, cases)


def _adversarial_cell(
    builder: Builder, concept: Concept, scenario: AdversarialTextScenario, defence: str, chosen: PromptSet | None
) -> None:
    common = builder.common("prompt", defence, concept, scenario.sampler)
    kind = Control.BACKBONE if defence == "none" else None
    cell = cell_of(concept, concept.name, defence, scenario, kind)
    cases = adversarial_cases(builder, concept, scenario, chosen, common.model)
    add_with_controls(builder, cell, common, cases)
    if beside := random_token_cases(scenario, cases):
        # Once more, so that the model's unit knows this cell too.
        common = builder.common("prompt", defence, concept, scenario.sampler)
        builder.add(cell_of(concept, concept.name, defence, scenario, Control.RANDOM_TOKENS), common, beside)


def _relearning_cells(builder: Builder, concept: Concept, scenario: RelearningScenario, defence: str) -> None:
    """Plan a cell for each checkpoint, of which the last one decides; on the backbone those of the control concept too."""
    subjects = [(concept, Control.BACKBONE if defence == "none" else None)]
    if defence == "none":
        subjects.append((builder.spec.concept(scenario.control_concept), Control.UNLEARNED))
    for subject, control in subjects:
        model = builder.model(defence, concept)
        for point in relearning_cases(builder, subject, scenario, model):
            cell = cell_of(concept, subject.name, defence, scenario, control if point.last else Control.CHECKPOINT)
            axis = None if point.last else TRAINING_STEPS
            cell = dataclasses.replace(cell, perturbation=axis, strength=float(point.step))
            common = builder.common("prompt", defence, concept, scenario.sampler)
            common = dataclasses.replace(common, personalisation=point.personalisation)
            add_with_controls(builder, cell, common, point.attempts)


def _benign_cells(builder: Builder, concept: Concept, prompts: Sequence[BenignPrompt]) -> None:
    """Plan one cell for each defence, the un-erased backbone included, with the same prompts and seeds.

    Each case has its own subject.
    """
    cases = benign_cases(builder.spec, concept, prompts) if is_judged(builder.spec) else []
    if not cases:
        return
    sampler, kind = sampler_of(builder.spec), Scenario.TEXT
    text = builder.spec.first_text()
    scenario = text.name if text else kind.value
    for defence in builder.spec.defence_names():
        cell = Cell(-1, concept.name, BENIGN_PROMPTS, Role.BENIGN, None, defence, scenario, kind, 0)
        builder.add(cell, builder.common("prompt", defence, concept, sampler), cases)


def _latent_cells(builder: Builder, concept: Concept, scenario: LatentScenario, defence: str) -> None:
    """Plan the default row with the classes it is compared with, then each perturbation in further cells."""
    controls = builder.spec.controls
    backbone = Control.BACKBONE if defence == "none" else None
    unlearned = [(name, controls.cases, "controls.unlearned") for name in controls.unlearned]
    subjects = [(concept.name, scenario.cases, scenario.name), *unlearned]
    for name, count, field in subjects:
        control = backbone if name == concept.name else Control.UNLEARNED
        _latent_cell(builder, cell_of(concept, name, defence, scenario, control), scenario, count, field)
    for name in _pictured_neighbours(builder.spec, concept):
        _latent_cell(builder, cell_of(concept, name, defence, scenario), scenario, controls.cases, "controls.cases")
    for perturbation in scenario.perturbations:
        for name, count, field in subjects:
            cell = cell_of(concept, name, defence, scenario, Control.PERTURBED)
            cell = dataclasses.replace(cell, perturbation=perturbation.kind, strength=perturbation.strength)
            fewer = min(count, scenario.perturbed_cases or count)
            _latent_cell(builder, cell, scenario, fewer, field, perturbation)
    if scenario.regeneration_prompt and controls.random_latent:
        # What the prompt does without an inverted latent. The gate's own floor is made with the null prompt.
        prompt = prompt_for(builder.spec, scenario.regeneration_prompt, concept.name)
        seeds = [Attempt(builder.spec.seed + number, prompt) for number in range(controls.cases)]
        common = builder.common("noise", defence, concept, scenario.sampler)
        builder.add(cell_of(concept, concept.name, defence, scenario, Control.RANDOM_LATENT), common, seeds)


def _latent_cell(
    builder: Builder,
    cell: Cell,
    scenario: LatentScenario,
    count: int,
    field: str,
    perturbation: Perturbation | None = None,
) -> None:
    moved = perturbation if perturbation and perturbation.of_latent else None
    common = dataclasses.replace(
        builder.common("latent", cell.defence, builder.spec.concept(cell.concept), scenario.sampler),
        solver="ddim" if scenario.method == "fixed-point" else scenario.method,
        perturbation=moved,
    )
    inversion = Inversion(
        scenario,
        common.model if scenario.kind == "latent-whitebox" else None,
        prompt_for(builder.spec, scenario.inversion_prompt, cell.subject) or "",
        None if moved else perturbation,
    )
    prompt = prompt_for(builder.spec, scenario.regeneration_prompt, cell.subject)
    cases: Sequence[Attempt] = reference_cases(builder, cell.subject, count, field)
    if prompt is not None:
        cases = [dataclasses.replace(case, prompt=prompt) for case in cases]
    add_with_controls(builder, cell, common, cases, inversion)


def _pictured_neighbours(spec: Spec, concept: Concept) -> list[str]:
    """Return the neighbours of a concept that the corpus has images of: classes that the model knows and should keep."""
    pictured = {entry.concept for entry in spec.corpus if entry.role == "neighbour"}
    return [name for name in concept.neighbours if name in pictured]


def inversion_prompts(spec: Spec) -> set[str]:
    """Return every prompt, except the null prompt, under which the spec's scenarios invert images."""
    return {
        prompt
        for scenario in spec.scenarios
        if isinstance(scenario, LatentScenario)
        for subject in spec.subjects()
        if (prompt := prompt_for(spec, scenario.inversion_prompt, subject.name))
    }


def _control_cells(builder: Builder, concept: Concept) -> None:
    controls = builder.spec.controls
    latent = next((s for s in builder.spec.scenarios if isinstance(s, LatentScenario)), None)

    def add(control: Control, source: Source, cases: Sequence[Attempt], defence: str = "none") -> None:
        # Without a prompt there is nothing to guide, whatever the scenario's own guidance.
        sampler = latent.sampler.model_copy(update={"guidance": 1.0}) if latent and source == "noise" else None
        cell = cell_of(concept, concept.name, defence, None, control)
        builder.add(cell, builder.common(source, defence, concept, sampler), cases)

    if builder.items.get(concept.name) or concept.name in builder.unusable.pictures:
        if controls.reference:
            add(
                Control.REFERENCE, "image", reference_cases(builder, concept.name, controls.cases, "controls.reference")
            )
        if controls.vae_roundtrip:
            add(
                Control.VAE_ROUNDTRIP,
                "vae",
                reference_cases(builder, concept.name, controls.cases, "controls.vae-roundtrip"),
            )
    seeds = [Attempt(builder.spec.seed + number, "") for number in range(controls.cases)]
    if controls.random_latent and latent:
        for defence in builder.spec.defence_names():
            add(Control.RANDOM_LATENT, "noise", seeds, defence)
    if controls.noise:
        plain = [dataclasses.replace(attempt, prompt=None) for attempt in seeds]
        add(Control.NOISE_LATENT, "noise-latent", plain)
        add(Control.NOISE_PIXELS, "noise-pixels", plain)
    if controls.black:
        add(Control.BLACK, "black", [Attempt(number) for number in range(min(4, controls.cases))])


def plan_size(plan: Draft) -> dict[str, int]:
    """Return the numbers of cells, cases, distinct pictures and units by kind in a plan."""
    kinds = Counter(plan.units["kind"].to_pylist())
    return {
        "cells": len(plan.cells),
        "cases": plan.cases.num_rows,
        "pictures": len(plan.cases["image_id"].unique()),
        **{f"{kind}_units": kinds[kind] for kind in KINDS},
    }
