"""Presets and the specs that begin with them: valid, judged by detectors that can, and explained section by section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.corpus.prompts import read_prompt_set
from audit.errors import SpecError
from audit.instruments.detectors import instrument_and_rules
from audit.instruments.detectors.nudenet import LABELS
from audit.plan.benign import planned_with_benign, require_judged
from audit.spec.document import Spec, parse_spec
from audit.spec.presets import FOLDER, NAMES, load_preset
from audit.spec.prompts import PromptSource
from audit.spec.starter import SCENARIOS, STABLE_DIFFUSION, Answers, write_spec
from audit.testbed.captions import CLASSES, SYNONYMS
from tests.instruments.detectors.folders import write_clip, write_grounding_dino

KINDS = [*((name, STABLE_DIFFUSION) for name in NAMES), ("object", "testbed")]
UCE = {"method": "uce", "preset": "official"}


def text_of(name: str, backbone: str = STABLE_DIFFUSION, concept: str | None = None, **changes: Any) -> str:
    preset = load_preset(name, backbone)
    answers = Answers(preset, preset.concept(concept), backbone, UCE, **changes)
    return write_spec(answers, command="erasure-audit init", erasers=("uce",), guards=("irece", "egloce"))


def spec_of(*arguments: Any, **changes: Any) -> Spec:
    return parse_spec(yaml.safe_load(text_of(*arguments, **changes)), "test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of a detector -> a folder of its class at tiny size."""
    folder = tmp_path_factory.mktemp("networks")
    return {"clip-zero-shot": write_clip(folder / "clip"), "grounding-dino": write_grounding_dino(folder / "dino")}


@pytest.mark.parametrize(("name", "backbone"), KINDS)
def test_a_preset_s_concepts_are_judged_on_both_sides_of_the_gate(
    name: str, backbone: str, folders: dict[str, Path]
) -> None:
    """With networks of the same classes in the place of the real ones, up to the last check before a plan."""
    for concept in load_preset(name, backbone).concepts[:2]:
        document = yaml.safe_load(text_of(name, backbone, concept.phrase))
        for detector in document["detectors"]:
            if detector["kind"] in folders and backbone != "testbed":
                detector["model"] = str(folders[detector["kind"]])
        spec, prompts = planned_with_benign(parse_spec(document, "test"))
        rules = [rule for entry in spec.detectors for rule in instrument_and_rules(entry, spec)[1]]
        judging = {rule["detector"] for rule in rules if rule["subject"] == concept.name}
        assert judging >= set(spec.gate.judges)
        require_judged(spec, rules, prompts)
        assert spec.benign.instrument is not None  # what checks whether benign pictures are still pictures


@pytest.mark.parametrize(("name", "backbone"), KINDS)
def test_every_attack_of_a_preset_has_its_limit_and_every_case_that_its_prompt_set_needs(
    name: str, backbone: str
) -> None:
    spec = spec_of(name, backbone, corpus="corpora/it", scenarios=SCENARIOS)
    assert tuple(scenario.name for scenario in spec.scenarios) == SCENARIOS
    assert [limit.scenario for limit in spec.gate.limits] == list(SCENARIOS)
    (text,) = [scenario for scenario in spec.scenarios if scenario.name == "text"]
    if text.prompts is not None:
        chosen = read_prompt_set(text.prompts)
        assert len(chosen.about(spec.concepts[0])) >= text.cases


@pytest.mark.parametrize(("name", "backbone"), KINDS)
def test_every_section_is_explained_and_no_line_is_too_long(name: str, backbone: str) -> None:
    text = text_of(name, backbone)
    blocks = text.strip().split("\n\n")
    assert blocks[0].startswith("# yaml-language-server: $schema=erasure-audit.schema.json\n")
    assert all(block.startswith("# ") for block in blocks)
    assert {"concepts", "defences", "scenarios", "detectors", "gate"} <= set(re.findall(r"^(\w+):", text, re.M))
    assert max(map(len, text.splitlines())) <= 140
    assert not re.search(r"[ \t]$", text, re.M)


def test_the_shipped_prompt_sets_have_rows_about_what_the_presets_say() -> None:
    for file in ("object", "testbed-object"):
        preset = load_preset("object", "testbed" if file.startswith("testbed") else STABLE_DIFFUSION)
        chosen = read_prompt_set(PromptSource(set=preset.prompts))
        assert all(len(chosen.about(concept)) >= preset.cases for concept in preset.concepts), file


def test_the_testbed_s_preset_knows_its_shapes_by_both_of_their_words() -> None:
    known = {concept.name: concept.synonyms for concept in load_preset("object", "testbed").concepts}
    assert known == {name: (SYNONYMS[name],) for name in CLASSES}


def test_nudity_counts_labels_that_nudenet_has_and_blurs_its_pictures() -> None:
    spec = spec_of("nudity")
    assert set(spec.detectors[0].labels["nudity"]) < set(LABELS)
    assert spec.is_sensitive("nudity") and spec.gate.judges == ("nudenet",)
    assert spec.concepts[0].neighbours and all(
        spec.detectors[0].labels[name] == () for name in spec.concepts[0].neighbours
    )


def test_another_concept_keeps_its_words_and_is_not_its_own_neighbour() -> None:
    monet = spec_of("artist-style", STABLE_DIFFUSION, "Claude Monet").concepts[0]
    assert (monet.name, monet.phrase, monet.synonyms) == ("claude-monet", "Claude Monet", ())
    assert "van-gogh" in monet.neighbours and "claude-monet" not in monet.neighbours
    car = spec_of("object", STABLE_DIFFUSION, "car")  # no row of the set is about it, and CLIP is not asked twice
    assert car.scenarios[0].prompts is None  # type: ignore[union-attr]
    assert "car" not in car.detectors[1].parameters["extra_classes"]


def test_guards_stand_alone_and_on_top_of_the_eraser() -> None:
    spec = spec_of("object", guards=("irece", "egloce"))
    assert [defence.name for defence in spec.defences] == ["uce", "uce+irece+egloce"]
    energy = spec.defences[1].guards[1].parameters["energy"]
    assert energy not in {detector.model for detector in spec.detectors}  # never the network that scores


@pytest.mark.parametrize("words", ["a\nb: c", "it's", 'a "quote"', "- x", "{phrase}", "café", "#no", "yes", "\u2028"])
def test_a_phrase_is_written_as_it_is_whatever_it_holds(words: str) -> None:
    assert spec_of("object", STABLE_DIFFUSION, f"x{words}y").concepts[0].phrase == f"x{words}y"


def test_a_preset_needs_a_backbone_that_can_draw_it() -> None:
    with pytest.raises(SpecError, match="the testbed draws shapes"):
        load_preset("nudity", "testbed/backbone")
    with pytest.raises(SpecError, match="the testbed cannot draw 'zebra'"):
        load_preset("object", "testbed").concept("zebra")


def test_every_file_of_a_preset_belongs_to_one() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES, "testbed-object"}
