"""Resolve a spec into cells, cases and units, without torch and without loading any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audit import identity
from audit.attacks.prompts import prompts
from audit.errors import SpecError
from audit.model_refs import ModelRef
from audit.plan import KINDS, Plan
from audit.plan_builder import Builder, CorpusItem
from audit.quality_planning import plan_quality
from audit.records import Cell, Control, Instrument, QualityInstrument, Role, Scenario
from audit.scenarios import LatentScenario, TextScenario
from audit.spec import Concept, Spec


def build_plan(
    spec: Spec,
    *,
    run_id: str,
    created_at: str,
    backbone: ModelRef,
    items: Mapping[str, Sequence[CorpusItem]],
    instruments: Sequence[Instrument],
    rules: Sequence[Mapping[str, Any]],
    corpus: Mapping[str, Any],
    quality: Sequence[QualityInstrument] = (),
) -> Plan:
    """The complete plan of a run. `items` maps each corpus concept to its reference images in a fixed order.

    Raises `SpecError` when a scenario or control asks for more reference images than the corpus has.
    """
    builder = Builder(spec, backbone, items)
    for concept in spec.concepts:
        for scenario in spec.scenarios:
            for defence in spec.defence_names():
                if isinstance(scenario, TextScenario):
                    _text_cells(builder, concept, scenario, defence)
                else:
                    _latent_cells(builder, concept, scenario, defence)
        _control_cells(builder, concept)
    builder.detect(instruments)
    comparisons = plan_quality(builder, quality)
    cases, units = builder.tables()
    return Plan(
        run_id=run_id,
        name=spec.name,
        created_at=created_at,
        spec=spec,
        backbone={
            "name": backbone.name,
            "source": backbone.source,
            "revision": backbone.revision,
            "sha256": backbone.sha256,
            "files": dict(backbone.files),
        },
        cells=tuple(builder.cells),
        cases=cases,
        units=units,
        instruments=tuple(instruments),
        rules=tuple(rules),
        corpus=corpus,
        quality=tuple(quality),
        comparisons=comparisons,
    )


def _cell(concept: Concept, subject: str, defence: str, scenario: Scenario, control: Control | None = None) -> Cell:
    role = Role.CONTROL if control else Role.TARGET if subject == concept.name else Role.NEIGHBOUR
    return Cell(-1, concept.name, subject, role, control, defence, scenario, 0)


def _sampler(scenario: TextScenario | LatentScenario) -> dict[str, Any]:
    return scenario.sampler.model_dump(mode="json")


def _text_cells(builder: Builder, concept: Concept, scenario: TextScenario, defence: str) -> None:
    common = builder.common("prompt", defence, concept, _sampler(scenario))
    control = Control.BACKBONE if defence == "none" else None
    subjects = [(concept, scenario.cases, control)]
    if builder.spec.neighbour_cases:
        subjects += [(builder.spec.concept(n), builder.spec.neighbour_cases, None) for n in concept.neighbours]
    for subject, count, kind in subjects:
        cases = [
            {"seed": builder.spec.seed + number, "prompt": prompt}
            for number, prompt in enumerate(prompts(scenario, subject, count))
        ]
        builder.add(_cell(concept, subject.name, defence, Scenario.TEXT, kind), common, cases)


def _latent_cells(builder: Builder, concept: Concept, scenario: LatentScenario, defence: str) -> None:
    common = builder.common("latent", defence, concept, _sampler(scenario))
    inverter = common["model"] if scenario.name == "latent-whitebox" else None
    kind = Control.BACKBONE if defence == "none" else None
    cell = _cell(concept, concept.name, defence, Scenario(scenario.name), kind)
    builder.add(cell, common, _items(builder, concept.name, scenario.cases, scenario.name), scenario, inverter)
    for name in builder.spec.controls.unlearned:
        cases = _items(builder, name, builder.spec.controls.cases, "controls.unlearned")
        cell = _cell(concept, name, defence, Scenario(scenario.name), Control.UNLEARNED)
        builder.add(cell, common, cases, scenario, inverter)


def _control_cells(builder: Builder, concept: Concept) -> None:
    controls = builder.spec.controls
    latent = next((s for s in builder.spec.scenarios if isinstance(s, LatentScenario)), None)

    def add(control: Control, source: str, cases: Sequence[Mapping[str, Any]], defence: str = "none") -> None:
        sampler = _sampler(latent) if latent and source == "noise" else None
        cell = _cell(concept, concept.name, defence, Scenario.NONE, control)
        builder.add(cell, builder.common(source, defence, concept, sampler), cases)

    if builder.items.get(concept.name):
        for enabled, control, source in (
            (controls.reference, Control.REFERENCE, "image"),
            (controls.vae_roundtrip, Control.VAE_ROUNDTRIP, "vae"),
        ):
            if enabled:
                add(control, source, _items(builder, concept.name, controls.cases, f"controls.{control}"))
    seeds = [{"seed": builder.spec.seed + number, "prompt": ""} for number in range(controls.cases)]
    if controls.random_latent and latent:
        for defence in builder.spec.defence_names():
            add(Control.RANDOM_LATENT, "noise", seeds, defence)
    if controls.black:
        add(Control.BLACK, "black", [{"seed": number} for number in range(min(4, controls.cases))])


def _items(builder: Builder, concept: str, count: int, field: str) -> list[dict[str, Any]]:
    # Drawn at random from the corpus, by the items' own seeds: the first by name would be one date, camera or subject.
    available = builder.items.get(concept, ())
    if len(available) < count:
        raise SpecError(
            f"{field} asks for {count} images of {concept!r} and the corpus has {len(available)} different ones",
            where="corpus",
            next_step=f"add images, or lower the number of cases to {len(available)}",
        )
    return [
        {"item": i.item, "item_uri": i.uri, "seed": _item_seed(builder.spec.seed, i.item)}
        for i in sorted(available, key=lambda i: _item_seed(builder.spec.seed, i.item))[:count]
    ]


def _item_seed(seed: int, item: str) -> int:
    """A 31-bit seed from the item itself: another corpus order or size leaves a picture's seed as it was."""
    return identity.int_key({"seed": seed, "item": item}) % 2**31


def plan_size(plan: Plan) -> dict[str, int]:
    """Cells, cases, distinct pictures and units by kind of a plan."""
    kinds = plan.units["kind"].to_pylist()
    return {
        "cells": len(plan.cells),
        "cases": plan.cases.num_rows,
        "pictures": len(plan.cases["image_id"].unique()),
        **{f"{kind}_units": kinds.count(kind) for kind in KINDS},
    }
