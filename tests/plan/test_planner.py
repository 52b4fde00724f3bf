"""The plan: what is counted, what is shared, and that every field of the identity changes the key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from audit import identity
from audit.errors import SpecError
from audit.plan.document import KINDS, Plan, read_plan
from audit.plan.planner import plan_size
from audit.plan.resolved import CorpusItem
from audit.records import MASK_CONTROLS, Control, Instrument, Role
from audit.spec.document import parse_spec
from audit.storage.journal import Journal
from audit.weights.references import ModelRef, resolve_model
from tests.plan.resolved import resolved_of, stated_plan

INSTRUMENT = Instrument(1, "judge", "classifier", "1", "torch", "0" * 64, "none", ("ring",), 0.0, 0.5, "{}")
SPEC: dict[str, Any] = {
    "name": "plan-test",
    "backbone": "testbed",
    "concepts": [{"name": "ring", "phrase": "ring", "synonyms": ["hoop"], "neighbours": ["circle"]}],
    "corpus": [{"url": "x", "concept": "ring"}, {"url": "y", "concept": "arrow", "role": "control"}],
    "defences": [{"name": "uce", "eraser": {"method": "uce", "preset": "testbed"}}],
    "scenarios": [
        {"name": "text", "cases": 10, "sampler": {"steps": 10, "guidance": 5.0}},
        {"name": "latent-whitebox", "cases": 6, "sampler": {"steps": 10, "guidance": 1.0}, "perturbations": [0.1]},
        {"name": "latent-blackbox", "cases": 6, "sampler": {"steps": 10, "guidance": 1.0}},
    ],
    "neighbour_cases": 3,
    "controls": {"cases": 4, "unlearned": ["arrow"]},
    "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
    "gate": {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"]},
    "unit_size": 4,
}


def items(count: int = 8) -> dict[str, list[CorpusItem]]:
    return {
        name: [CorpusItem(identity.key([name, i]), f"file:///{name}/{i}") for i in range(count)]
        for name in ("ring", "arrow")
    }


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(SPEC)
    node: Any = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return document


@pytest.fixture(scope="module")
def backbone(tiny_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_folder))


def plan_of(
    backbone: ModelRef, document: dict[str, Any] = SPEC, corpus: dict[str, list[CorpusItem]] | None = None
) -> Plan:
    return stated_plan(
        resolved_of(parse_spec(document, "test"), backbone, items=corpus or items(), instrument=INSTRUMENT)
    )


def test_every_cell_is_planned_with_its_role_and_control(backbone: ModelRef) -> None:
    cells = [planned.cell for planned in plan_of(backbone).cells]
    targets = [c for c in cells if c.role is Role.TARGET]
    assert {(c.defence, c.scenario, c.planned) for c in targets} == {
        ("uce", "text", 10),
        ("uce", "latent-whitebox", 6),
        ("uce", "latent-blackbox", 6),
    }
    controls = [(c.control, c.defence) for c in cells if c.role is Role.CONTROL]
    assert controls.count((Control.BACKBONE, "none")) == 3
    assert controls.count((Control.UNLEARNED, "uce")) == 2
    # Asked for by a guard, or by scenarios that this spec has not.
    elsewhere = {
        *MASK_CONTROLS, Control.OTHER_PICTURES, Control.RANDOM_TOKENS, Control.PLAIN_SAMPLING, Control.CHECKPOINT,
        Control.RANDOM_DIRECTION,
    }  # fmt: skip
    assert {c for c, _ in controls} == set(Control) - elsewhere
    assert sum(c.planned for c in cells if c.role is Role.NEIGHBOUR) == 2 * 3


def test_cases_of_the_plan_add_up(backbone: ModelRef) -> None:
    plan = plan_of(backbone)
    assert plan.cases.num_rows == sum(planned.cell.planned for planned in plan.cells)
    made = sum(unit.rows for unit in plan.units_of("generate"))
    assert made == plan_size(plan)["pictures"]
    assert made == sum(len(plan.cases_of(unit.key)) for unit in plan.units_of("generate"))


def test_backbone_inversions_and_pictures_are_shared(backbone: ModelRef) -> None:
    plan = plan_of(backbone)
    plain = [p.cell for p in plan.cells if p.cell.perturbation is None]
    cells = {(cell.defence, cell.scenario, cell.subject): cell.cell_id for cell in plain}
    rows = plan.cases.to_pylist()

    def column(defence: str, scenario: str, name: str) -> list[Any]:
        return [row[name] for row in rows if row["cell_id"] == cells[defence, scenario, "ring"]]

    assert column("none", "latent-whitebox", "image_id") == column("none", "latent-blackbox", "image_id")
    assert column("none", "latent-whitebox", "invert_key") == column("uce", "latent-blackbox", "invert_key")
    assert not set(column("uce", "latent-whitebox", "invert_key")) & set(column("uce", "latent-blackbox", "invert_key"))


def test_defences_see_the_same_seeds_and_prompts(backbone: ModelRef) -> None:
    plan = plan_of(backbone)
    by_defence = {
        planned.cell.defence: [
            (row["seed"], row["prompt"]) for row in plan.cases.to_pylist() if row["cell_id"] == planned.cell.cell_id
        ]
        for planned in plan.cells
        if planned.cell.scenario == "text" and planned.cell.subject == "ring"
    }
    assert by_defence["none"] == by_defence["uce"]


@pytest.mark.parametrize(
    ("path", "value", "kinds"),
    [
        (("seed",), 1, {"invert", "generate", "detect"}),  # other reference images are drawn too
        (("scenarios", 0, "sampler", "guidance"), 6.0, {"generate", "detect"}),
        (("scenarios", 0, "templates"), ["a {phrase}"], {"generate", "detect"}),
        (("scenarios", 1, "fixed_point_passes"), 4, {"invert", "generate", "detect"}),
        (("defences", 0, "eraser", "parameters"), {"erase_scale": 2.0}, {"erase", "invert", "generate", "detect"}),
        (("defences", 0, "guards"), [{"name": "negative-prompt"}], {"generate", "detect"}),
        (("concepts", 0, "phrase"), "hoop", {"erase", "invert", "generate", "detect"}),
    ],
)
def test_a_changed_input_changes_the_keys_that_depend_on_it(
    backbone: ModelRef, path: tuple[str | int, ...], value: Any, kinds: set[str]
) -> None:
    before, after = plan_of(backbone), plan_of(backbone, changed(path, value))
    for kind in KINDS:
        old, new = ({unit.key for unit in plan.units_of(kind)} for plan in (before, after))
        assert (not new <= old) is (kind in kinds), kind


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("gate", "limits", 0, "crr_max"), 0.5),
        (("gate", "confidence"), 0.99),
        (("detectors", 0, "threshold"), 0.9),
        (("scenarios", 1, "quality_gate"), {"psnr_min_db": 30.0}),
        (("concepts", 0, "sensitive"), True),
        (("name",), "other"),
    ],
)
def test_policy_and_presentation_recompute_nothing(backbone: ModelRef, path: tuple[str | int, ...], value: Any) -> None:
    before, after = plan_of(backbone), plan_of(backbone, changed(path, value))
    assert before.units["key"].to_pylist() == after.units["key"].to_pylist()


def test_another_backbone_changes_every_key(backbone: ModelRef) -> None:
    import dataclasses

    other = dataclasses.replace(backbone, sha256="1" * 64)
    assert not set(plan_of(backbone).units["key"].to_pylist()) & set(plan_of(other).units["key"].to_pylist())


def test_unreadable_objects_stay_in_the_denominator(backbone: ModelRef) -> None:
    corpus = items()
    corpus["ring"][0] = CorpusItem("unreadable-0", "file:///ring/broken")
    plan = plan_of(backbone, corpus=corpus)
    cell = next(p.cell for p in plan.cells if p.cell.scenario == "latent-whitebox" and p.cell.role is Role.TARGET)
    assert cell.planned == 6
    assert "unreadable-0" in plan.cases["item"].to_pylist()


def test_too_few_images_are_refused(backbone: ModelRef) -> None:
    with pytest.raises(SpecError, match=r"asks for 6 images of 'ring' and the corpus has 5"):
        plan_of(backbone, corpus=items(5))


def test_unknown_eraser_guard_and_parameters_are_refused(backbone: ModelRef) -> None:
    for path, value in (
        (("defences", 0, "eraser", "method"), "magic"),
        (("defences", 0, "guards"), [{"name": "magic"}]),
        (("defences", 0, "guards"), [{"name": "negative-prompt", "parameters": {"text": " "}}]),
    ):
        with pytest.raises(SpecError):
            plan_of(backbone, changed(path, value))


@pytest.mark.parametrize("preset", [None, "official", "testbed"])
def test_a_spec_and_the_command_line_resolve_an_eraser_alike(backbone: ModelRef, preset: str | None) -> None:
    import dataclasses

    from audit.erasers.request import make_request

    named = changed(("defences", 0, "eraser"), {"method": "uce", **({"preset": preset} if preset else {})})
    for name in ("testbed", "models/sd14"):
        plan = plan_of(dataclasses.replace(backbone, name=name), named)
        (unit,) = plan.units_of("erase")
        assert unit.identity.parameters == make_request(name, "uce", ["ring"], preset=preset).resolved()


def test_a_stored_plan_reads_back_equal(backbone: ModelRef, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    plan = plan_of(backbone)
    plan.write(journal)
    again = read_plan(journal, "run")
    assert again.document() == plan.document()
    assert again.cases.equals(plan.cases)
    assert again.units.equals(plan.units)


def test_pending_is_an_anti_join_with_the_journal(backbone: ModelRef, tmp_path: Path) -> None:
    plan = plan_of(backbone)
    journal = Journal(str(tmp_path))
    assert len(plan.pending("detect", journal)) == plan_size(plan)["detect_units"]
