"""Latent scenarios in the plan: prompts, perturbations, exact samplers, and the cells that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit import identity
from audit.errors import SpecError
from audit.plan.document import Plan, PlannedCell
from audit.plan.identities import Json, as_json
from audit.plan.planner import inversion_prompts
from audit.plan.resolved import CorpusItem
from audit.records import Control, Instrument, Role
from audit.spec.document import Spec, parse_spec
from audit.weights.references import ModelRef
from tests.plan.resolved import resolved_of, stated_plan

BACKBONE = ModelRef(name="testbed", source="testbed", revision=None, path=Path("."), sha256="a" * 64, files={})
INSTRUMENT = Instrument(1, "judge", "classifier", "1", "torch", "0" * 64, "none", ("ring",), 0.1, 0.5, "{}")


def spec_of(defences: list[dict[str, Any]] | None = None, **latent: Any) -> Spec:
    document = {
        "name": "latent",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "thin ring", "neighbours": ["disc", "moon"]}],
        "corpus": [
            {"url": "x", "concept": "ring"},
            {"url": "y", "concept": "arrow", "role": "control"},
            {"url": "z", "concept": "disc", "role": "neighbour"},
        ],
        "defences": defences or [{"name": "uce", "eraser": {"method": "uce", "preset": "testbed"}}],
        "scenarios": [{"name": "latent-whitebox", "cases": 4, "sampler": {"steps": 10, "guidance": 1.0}, **latent}],
        "controls": {"cases": 2, "unlearned": ["arrow"]},
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"]},
    }
    return parse_spec(document, "test")


def plan_of(spec: Spec) -> Plan:
    pictures = {
        name: [CorpusItem(identity.key([name, i]), f"file:///{name}/{i}") for i in range(5)]
        for name in ("ring", "arrow", "disc")
    }
    return stated_plan(resolved_of(spec, BACKBONE, items=pictures, instrument=INSTRUMENT))


def cells(plan: Plan, control: Control | None, defence: str = "uce", subject: str = "ring") -> list[PlannedCell]:
    return [
        p
        for p in plan.cells
        if (p.cell.control, p.cell.defence, p.cell.subject) == (control, defence, subject)
        and p.cell.scenario == "latent-whitebox"
    ]


def column(plan: Plan, cell: PlannedCell, name: str) -> list[Any]:
    return [row[name] for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell.cell_id]


def identities(plan: Plan, cell: PlannedCell, kind: str) -> list[Json]:
    keys = set(column(plan, cell, "invert_key" if kind == "invert" else "unit_key"))
    return [as_json(unit.identity) for unit in plan.units_of(kind) if unit.key in keys]


def test_latent_perturbations_share_the_inversions_of_the_default_row() -> None:
    plan = plan_of(spec_of(perturbations=[0.05, {"kind": "latent-noise-sphere", "strength": 0.05}]))
    (default,) = cells(plan, None)
    perturbed = cells(plan, Control.PERTURBED)
    assert [(p.cell.perturbation, p.cell.strength) for p in perturbed] == [
        ("latent-noise", 0.05),
        ("latent-noise-sphere", 0.05),
    ]
    assert default.cell.perturbation is None and default.cell.role is Role.TARGET
    pictures = [set(column(plan, cell, "image_id")) for cell in (default, *perturbed)]
    assert len(set.union(*pictures)) == 3 * 4
    for cell in perturbed:
        assert cell.cell.role is Role.CONTROL
        assert cell.gate_residual_max == default.gate_residual_max
        assert column(plan, cell, "invert_key") == column(plan, default, "invert_key")
        assert column(plan, cell, "seed") == column(plan, default, "seed")
    (unit,) = identities(plan, perturbed[1], "generate")
    assert unit["perturbation"] == {"kind": "latent-noise-sphere", "strength": 0.05}


def test_perturbed_cases_are_the_first_of_the_default_row() -> None:
    plan = plan_of(spec_of(perturbations=[0.1, {"kind": "image-jpeg", "strength": 50}], perturbed_cases=2))
    (default,), perturbed = cells(plan, None), cells(plan, Control.PERTURBED)
    assert [p.cell.planned for p in perturbed] == [2, 2] and default.cell.planned == 4
    for cell in perturbed:
        assert column(plan, cell, "item") == column(plan, default, "item")[:2]
        assert column(plan, cell, "seed") == column(plan, default, "seed")[:2]
    assert column(plan, perturbed[0], "invert_key") == column(plan, default, "invert_key")[:2]


def test_perturbed_cases_never_ask_for_more_pictures_of_the_unlearned_class() -> None:
    plan = plan_of(spec_of(perturbations=[0.1], perturbed_cases=3))
    assert [p.cell.planned for p in cells(plan, Control.PERTURBED, subject="arrow")] == [2]


def test_image_perturbations_are_inverted_anew() -> None:
    plan = plan_of(spec_of(perturbations=[{"kind": "image-jpeg", "strength": 50}]))
    (default,), (perturbed,) = cells(plan, None), cells(plan, Control.PERTURBED)
    assert not set(column(plan, default, "invert_key")) & set(column(plan, perturbed, "invert_key"))
    (unit,) = identities(plan, perturbed, "invert")
    assert unit["perturbation"] == {"kind": "image-jpeg", "strength": 50.0}
    assert identities(plan, perturbed, "generate")[0]["perturbation"] is None


def test_every_strength_has_keys_of_its_own_and_leaves_the_default_rows_alone() -> None:
    plain, one, other = (plan_of(spec_of(perturbations=values)) for values in ([], [0.1], [0.2]))
    keys = [set(plan.units["key"].to_pylist()) for plan in (plain, one, other)]
    assert keys[0] == keys[1] & keys[2]
    assert len(keys[1]) == len(keys[2]) > len(keys[0])


def test_the_curve_has_the_backbone_and_the_unlearned_class() -> None:
    plan = plan_of(spec_of(perturbations=[0.1]))
    for defence in ("none", "uce"):
        for subject in ("ring", "arrow"):
            assert len(cells(plan, Control.PERTURBED, defence, subject)) == 1
    assert len(cells(plan, Control.BACKBONE, "none")) == len(cells(plan, Control.UNLEARNED, "uce", "arrow")) == 1


def test_neighbours_with_pictures_are_inverted_too() -> None:
    plan = plan_of(spec_of())
    found = [p.cell for p in plan.cells if p.cell.role is Role.NEIGHBOUR]
    assert {(cell.subject, cell.defence, cell.planned) for cell in found} == {("disc", "none", 2), ("disc", "uce", 2)}


def test_prompts_name_what_each_image_shows() -> None:
    spec = spec_of(inversion_prompt="an image of a {phrase}", regeneration_prompt="a {phrase}")
    plan = plan_of(spec)
    (default,), (unlearned,) = cells(plan, None), cells(plan, Control.UNLEARNED, subject="arrow")
    assert identities(plan, default, "invert")[0]["prompt"] == "an image of a thin ring"
    assert identities(plan, unlearned, "invert")[0]["prompt"] == "an image of a arrow"
    assert set(column(plan, default, "prompt")) == {"a thin ring"}
    assert set(column(plan, unlearned, "prompt")) == {"a arrow"}
    assert {"an image of a thin ring", "an image of a arrow"} <= inversion_prompts(spec)
    assert inversion_prompts(spec_of()) == set()


def test_a_regeneration_prompt_is_also_tried_on_random_latents() -> None:
    plan = plan_of(spec_of(regeneration_prompt="a {phrase}", sampler={"steps": 10, "guidance": 5.0}))
    (floor,) = cells(plan, Control.RANDOM_LATENT)
    assert set(column(plan, floor, "prompt")) == {"a thin ring"}
    (with_null,) = [
        p
        for p in plan.cells
        if p.cell.control is Control.RANDOM_LATENT and p.cell.scenario == "none" and p.cell.defence == "uce"
    ]
    assert set(column(plan, with_null, "prompt")) == {""}
    samplers = [identities(plan, cell, "generate")[0]["sampler"]["guidance"] for cell in (floor, with_null)]
    assert samplers == [5.0, 1.0]


def test_every_prompt_and_method_has_keys_of_its_own() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"inversion_prompt": "a {phrase}"}, {"inversion_prompt": "the {phrase}"}, {"method": "bdia"},
        {"method": "o-belm"},
    ]  # fmt: skip
    plans = [plan_of(spec_of(**change)) for change in changes]
    inverts = [{unit.key for unit in plan.units_of("invert")} for plan in plans]
    assert len(set.union(*inverts)) == sum(map(len, inverts))
    solvers = [identities(plan, cells(plan, None)[0], "generate")[0]["solver"] for plan in plans]
    assert solvers == ["ddim", "ddim", "ddim", "bdia", "o-belm"]
    regenerated = plan_of(spec_of(regeneration_prompt="a {phrase}"))
    assert {unit.key for unit in regenerated.units_of("invert")} == inverts[0]


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({"sampler": {"steps": 10, "guidance": 3.0}}, "another guidance needs regeneration_prompt"),
        ({"inversion_prompt": "a ring"}, r"must contain \{phrase\} once"),
        ({"regeneration_prompt": "a {phrase} by {artist}"}, r"must contain \{phrase\} once and no other"),
        ({"perturbations": [0.1, 0.1]}, "listed more than once"),
        ({"perturbations": [0.1], "perturbed_cases": 5}, "more than the 4 cases of the default row"),
        ({"perturbations": [0.1], "perturbed_cases": 0}, "greater than or equal to 1"),
        ({"perturbations": [0.0]}, "greater than 0"),
        ({"perturbations": [9.0]}, "strength of at most 3"),
        ({"perturbations": [{"kind": "image-jpeg", "strength": 50.5}]}, "whole number"),
        ({"perturbations": [{"kind": "salt", "strength": 1}]}, "image-noise"),
        ({"method": "edict"}, "o-belm"),
        ({"method": "bdia", "perturbations": [0.1]}, "noise on them is not defined"),
        ({"method": "bdia", "sampler": {"steps": 1, "guidance": 1.0}}, "at least 2"),
    ],
)
def test_what_makes_no_sense_is_refused(latent: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(**latent)


def test_exact_samplers_take_no_guards() -> None:
    guarded = [{"name": "shielded", "guards": [{"name": "negative-prompt"}]}]
    assert spec_of(guarded)
    with pytest.raises(SpecError, match="guards of defence 'shielded' act on one"):
        spec_of(guarded, method="o-belm")
