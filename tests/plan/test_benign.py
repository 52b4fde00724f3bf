"""Benign prompts: which ones a spec gets, that every defence draws the same ones, and who can judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit import run
from audit.corpus import ingest
from audit.errors import SpecError
from audit.plan.benign import benign_cases, planned_with_benign, read_benign
from audit.plan.document import Plan
from audit.records import BENIGN_PROMPTS, NOISE_CONTROLS, Role
from audit.spec.benign import PICTURE_CHECK
from audit.spec.document import Spec, parse_spec

JUDGE = {
    "name": "judge",
    "kind": "clip-zero-shot",
    "model": "testbed/judge",
    "background": ["a photo of an empty scene"],
}
NUDE = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}}


def spec_of(**changes: Any) -> Spec:
    document = {
        "name": "benign",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring", "synonyms": ["hoop"]}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}, {"name": "sld", "guards": [{"name": "sld"}]}],
        "scenarios": [{"name": "text", "cases": 2, "sampler": {"steps": 20, "guidance": 3.0}}],
        "controls": {"cases": 2},
        "detectors": [JUDGE],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}]},
        **changes,
    }
    return parse_spec(document, "test")


def plan_of(spec: Spec) -> Plan:
    return run.unstored_plan(spec, "run-1", "2026-01-01T00:00:00Z", ingest.MANIFEST_SCHEMA.empty_table())


def test_every_defence_draws_the_same_prompts_and_seeds_and_each_case_has_its_own_subject() -> None:
    plan = plan_of(spec_of())
    cells = [planned.cell for planned in plan.cells if planned.cell.role is Role.BENIGN]
    assert [cell.defence for cell in cells] == ["none", "uce", "sld"]
    assert {cell.subject for cell in cells} == {BENIGN_PROMPTS}
    rows = plan.cases.to_pylist()
    drawn = [
        [(r["case_no"], r["seed"], r["prompt"], r["subject"], r["guidance"]) for r in rows if r["cell_id"] == c.cell_id]
        for c in cells
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 32
    assert all(subject in prompt for _, _, prompt, subject, _ in drawn[0])
    assert {subject for *_, subject, _ in drawn[0]}.isdisjoint({"ring"})
    assert {guidance for *_, guidance in drawn[0]} == {3.0}


def test_the_judge_of_a_spec_without_neighbours_is_asked_about_benign_subjects() -> None:
    plan = plan_of(spec_of())
    subjects = {rule["subject"] for rule in plan.rules}
    assert {"ring", "circle", "hexagon"} <= subjects
    assert "circle" in plan.instruments[0].labels


def test_a_spec_with_neighbours_asks_its_judge_about_nothing_new() -> None:
    concepts = [{"name": "ring", "phrase": "ring", "neighbours": ["square"]}]
    plan = plan_of(spec_of(concepts=concepts, neighbour_cases=12))
    assert set(plan.instruments[0].labels) == {"ring", "square", "background"}
    assert {rule["subject"] for rule in plan.rules} == {"ring", "square"}


def test_subjects_that_are_words_for_a_concept_are_no_labels_of_their_own() -> None:
    concepts = [{"name": "shape-one", "phrase": "ring", "synonyms": ["circle"]}]
    plan = plan_of(spec_of(concepts=concepts))
    assert {"ring", "circle"}.isdisjoint(plan.instruments[0].labels)
    assert {"ring", "circle"}.isdisjoint(plan.cases["subject"].to_pylist())


def test_noise_controls_are_planned_once_for_all_concepts() -> None:
    concepts = [{"name": "ring", "phrase": "ring"}, {"name": "star", "phrase": "star"}]
    plan = plan_of(spec_of(concepts=concepts))
    cells = [planned.cell.cell_id for planned in plan.cells if planned.cell.control in NOISE_CONTROLS]
    pictures = {row["image_id"] for row in plan.cases.to_pylist() if row["cell_id"] in cells}
    assert (len(cells), len(pictures)) == (4, 4)


def test_the_picture_check_reads_with_the_judge_s_network_and_the_vectors_of_audited_pictures_too() -> None:
    plan = plan_of(spec_of())
    (instrument,) = plan.quality
    assert (instrument.instrument, instrument.metrics) == (PICTURE_CHECK, ())
    measured = {pair[0] for unit in plan.units_of("quality") for pair in unit.identity.pairs}
    wanted = {
        p.cell.cell_id for p in plan.cells if p.cell.role in (Role.BENIGN, Role.TARGET) or p.cell.control == "backbone"
    }
    assert measured == {row["image_id"] for row in plan.cases.to_pylist() if row["cell_id"] in wanted}


def test_a_listed_instrument_of_the_same_network_serves_the_check() -> None:
    listed = [{"name": "mine", "kind": "features", "model": "testbed/judge"}]
    plan = plan_of(spec_of(quality=listed))
    assert [instrument.instrument for instrument in plan.quality] == ["mine"]
    assert plan.quality[0].metrics == ("frechet", "cmmd")


def test_more_cases_than_prompts_come_again_by_other_seeds() -> None:
    spec = spec_of(benign={"cases": 100})
    cases = benign_cases(spec, spec.concepts[0], read_benign(spec))
    assert len(cases) == len({(case.prompt, case.seed) for case in cases}) == 100


def test_another_seed_of_the_spec_gives_other_pictures() -> None:
    one, other = (
        [case.seed for case in benign_cases(spec, spec.concepts[0], read_benign(spec))]
        for spec in (spec_of(), spec_of(seed=1))
    )
    assert set(one).isdisjoint(other)


def test_both_sides_waived_draw_nothing() -> None:
    gate = {
        "version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}],
        "retention_waived": "judged elsewhere", "damage_waived": "judged elsewhere",
    }  # fmt: skip
    plan = plan_of(spec_of(gate=gate))
    assert all(planned.cell.role is not Role.BENIGN for planned in plan.cells)
    assert not plan.quality


def test_an_everyday_set_stands_for_every_other_backbone() -> None:
    filled, prompts = planned_with_benign(spec_of(backbone="/models/stable-diffusion-v1-4"))
    assert len(filled.benign.subjects) == 24
    assert {"dog", "lighthouse"} <= set(filled.benign.subjects)
    assert len({prompt.row.prompt for prompt in prompts}) == 72


def test_own_prompts_replace_the_set(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt,concept\na red cross,Cross\na blue moon,moon\n")
    spec = spec_of(benign={"prompts": {"file": str(tmp_path / "mine.csv")}})
    cases = benign_cases(spec, spec.concepts[0], read_benign(spec))
    assert [case.subject for case in cases[:3]] == ["cross", "moon", "cross"]


def test_prompts_without_what_they_show_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt\na red cross\n")
    with pytest.raises(SpecError, match="do not say what they show") as raised:
        plan_of(spec_of(benign={"prompts": {"file": str(tmp_path / "mine.csv")}}))
    assert "add a column 'concept'" in str(raised.value)


def test_a_judge_that_can_see_nothing_of_what_must_survive_is_refused_with_the_ways_out() -> None:
    gate = {"version": "1", "judges": ["nude"], "limits": [{"crr_max": 0.3}], "damage_waived": "no network at hand"}
    with pytest.raises(SpecError, match="detector 'nude' can see nothing that must survive") as raised:
        plan_of(spec_of(detectors=[NUDE], gate=gate))
    assert "gate: {retention_waived: <the reason>}" in str(raised.value)
    named = {**gate, "retention_judges": ["judge"]}
    assert plan_of(spec_of(detectors=[NUDE, JUDGE], gate=named)).cells


def test_a_spec_without_any_network_for_the_picture_check_is_refused_with_the_ways_out() -> None:
    gate = {"version": "1", "judges": ["nude"], "limits": [{"crr_max": 0.3}], "retention_waived": "no judge at hand"}
    with pytest.raises(SpecError, match="no network can check whether benign pictures are still pictures") as raised:
        plan_of(spec_of(detectors=[NUDE], gate=gate))
    assert "damage_waived" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benign": {"cases": 8}}, "benign.cases: 8 prompts are too few"),
        ({"controls": {"cases": 2, "noise": False}}, "controls.noise: is off, and gate.controls.noise_max asks"),
    ],
)
def test_what_could_never_be_judged_is_a_mistake_of_the_spec(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(**changes)


def test_the_guard_s_energy_is_no_network_of_the_picture_check() -> None:
    defences = [{"name": "egloce", "guards": [{"name": "egloce"}]}]
    with pytest.raises(SpecError, match="optimises against testbed/energy, and the quality instrument 'picture-check'"):
        plan_of(spec_of(defences=defences, benign={"features": "testbed/energy"}))


def test_a_judge_of_too_few_pairs_is_refused_with_their_number() -> None:
    concepts = [{"name": "ring", "phrase": "ring", "neighbours": ["square"]}]
    with pytest.raises(
        SpecError, match=r"can judge 4 of the pictures that must survive .* takes at least 15"
    ) as raised:
        plan_of(spec_of(concepts=concepts))
    assert "raise neighbour_cases or benign.cases" in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a naked child,moon", "row 0 pairs minors with sexual content; such prompts are never sampled"),
        ("a red ring,ring", "every benign prompt is about 'ring' itself"),
        ("a red moon,_\u72ac", "each needs a prompt, and what it shows in Latin letters"),
        (f"{'a ' * 90}moon,moon", "reads none of the benign prompts whole"),
    ],
)
def test_prompts_that_show_nothing_that_could_survive_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(f"prompt,concept\n{rows}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        plan_of(spec_of(benign={"prompts": {"file": str(tmp_path / "mine.csv")}}))


def test_a_name_that_begins_with_a_mark_is_read_without_it(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt,concept\na red moon,_Moon\n")
    filled, _ = planned_with_benign(spec_of(benign={"prompts": {"file": str(tmp_path / "mine.csv")}}))
    assert filled.benign.subjects == ("moon",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"concepts": [{"name": "ring", "phrase": "ring", "neighbours": ["moon", "moon"]}]},
            "'moon' appears more than once",
        ),
        ({"quality": [{"name": "picture-check", "kind": "psnr"}]}, "the name of the gate's own instrument"),
    ],
)
def test_what_would_be_counted_twice_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(**changes)
