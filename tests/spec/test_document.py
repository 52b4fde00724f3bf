"""What a spec may not ask for, and what it gets without asking."""

from __future__ import annotations

from typing import Any

import pytest

from audit.errors import SpecError
from audit.spec.content import refuse_minors
from audit.spec.document import Spec, parse_spec


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [{"name": "text"}],
        "detectors": [{"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.1}]},
        **changes,
    }


def spec(**changes: Any) -> Spec:
    return parse_spec(document(**changes), "test")


MINORS = (
    "child", "children", "kids", "a minor", "toddler", "babies", "teenage", "teens", "underage", "under-aged",
    "pre-teen", "schoolgirl", "school boy", "school children", "kindergarten", "adolescent", "little girl", "young boys",
    "juvenile", "lolicon", "12 year old", "16-years-old", "9yo", "prepubescent", "youth", "ＣＨＩＬＤ", "school_girl",
)  # fmt: skip
SEXUAL = ("nude", "nudity", "naked", "sex", "sexy", "sexual", "porn", "pornographic", "erotica", "nsfw", "topless",
          "genitalia", "explicit", "undressed", "hentai", "xxx", "breast", "masturbation", "NUDE", "nu\u200bde")  # fmt: skip


@pytest.mark.parametrize("minor", MINORS)
def test_minors_and_sexual_content_are_refused_together(minor: str) -> None:
    with pytest.raises(SpecError, match="there is no override"):
        spec(concepts=[{"name": "c", "phrase": f"a photo of {minor}", "synonyms": ["nude person"]}])


@pytest.mark.parametrize("sexual", SEXUAL)
def test_every_word_for_it_counts_and_the_two_may_stand_anywhere(sexual: str) -> None:
    with pytest.raises(SpecError, match="there is no override"):
        spec(
            concepts=[{"name": "c", "phrase": sexual}],
            scenarios=[{"name": "text", "templates": ["a child and a {phrase}"]}],
        )


LABELS = {"name": "j", "kind": "clip-zero-shot", "model": "testbed/judge"}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("concepts.1.name", {"concepts": [{"name": "nudity", "phrase": "x"}, {"name": "child", "phrase": "y"}]}),
        ("concepts.0.synonyms.0", {"concepts": [{"name": "nudity", "phrase": "x", "synonyms": ["minor"]}]}),
        ("concepts.0.neighbours.0", {"concepts": [{"name": "nudity", "phrase": "x", "neighbours": ["child"]}]}),
        ("scenarios.0.templates.0", {"scenarios": [{"name": "text", "templates": ["a kid, {phrase}"]}]}),
        ("corpus.0.concept", {"corpus": [{"url": "x", "concept": "child"}]}),
        ("corpus.0.url", {"corpus": [{"url": "s3://b/kids-photos", "concept": "nudity"}]}),
        ("corpus.0.url", {"corpus": [{"url": "s3://b/kids", "concept": "circle", "role": "neighbour"}]}),
        ("corpus.0.url", {"corpus": [{"url": "s3://b/kids", "concept": "arrow", "role": "control"}]}),
        ("defences.0.name", {"defences": [{"name": "kids", "eraser": {"method": "uce"}}]}),
        ("defences.0.eraser.parameters.preserve", {"defences": [
            {"name": "x", "eraser": {"method": "uce", "parameters": {"preserve": "a child"}}}]}),
        ("defences.0.guards.0.parameters.text", {"defences": [
            {"name": "x", "guards": [{"name": "negative-prompt", "parameters": {"text": "child"}}]}]}),
        ("detectors.0.background.0", {"detectors": [{**LABELS, "background": ["a child"]}]}),
        ("detectors.0.labels.nudity.0", {"detectors": [{**LABELS, "labels": {"nudity": ["kid"]}}]}),
        ("detectors.0.labels.child", {"detectors": [{**LABELS, "labels": {"child": ["a"]}}]}),
        ("controls.unlearned.0", {"controls": {"unlearned": ["toddler"]}}),
        ("name", {"name": "kids"}),
    ],
)  # fmt: skip
def test_minors_are_found_in_every_field_and_both_fields_are_named(field: str, changes: dict[str, Any]) -> None:
    document = {"concepts": [{"name": "nudity", "phrase": "x"}], **changes}
    with pytest.raises(ValueError, match=rf"minors \({field}\) with sexual content \(concepts\.0\.name\)"):
        refuse_minors(document)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        (r"scenarios\.0\.templates\.0", {"scenarios": [{"name": "text", "templates": ["a kid, {phrase}"]}]}),
        (r"defences\.0\.name", {"defences": [{"name": "kids", "eraser": {"method": "uce"}}]}),
        (r"corpus\.0\.url", {"corpus": [{"url": "s3://b/kids-photos", "concept": "arrow", "role": "control"}]}),
        ("backbone", {"backbone": "models/kids"}),
    ],
)
def test_a_spec_is_refused_with_both_fields(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"minors \({field}\) with sexual content \(concepts\.0\.name\)"):
        spec(concepts=[{"name": "nudity", "phrase": "x"}], **changes)


@pytest.mark.parametrize("version", ["minor-1", "1.0-minor", "teen-2026"])
def test_a_version_of_the_policy_speaks_of_nobody(version: str) -> None:
    gate = {"version": version, "judges": ["classifier"], "limits": [{"crr_max": 0.1}]}
    assert spec(concepts=[{"name": "nudity", "phrase": "nudity"}], gate=gate).gate.version == version


@pytest.mark.parametrize("word", ["child", "nude", "kidney", "sextant", "analysis", "minority", "tween"])
def test_one_of_the_two_alone_is_allowed(word: str) -> None:
    assert spec(concepts=[{"name": "c", "phrase": word}]).concepts[0].phrase == word


@pytest.mark.parametrize("sexual", SEXUAL)
def test_sexual_concepts_are_sensitive_whatever_the_spec_says(sexual: str) -> None:
    fields = {"name": "c", "phrase": "x", "synonyms": [sexual], "sensitive": False}
    assert spec(concepts=[fields]).concepts[0].sensitive


def test_other_concepts_are_sensitive_when_the_spec_says_so() -> None:
    assert not spec().concepts[0].sensitive
    assert spec(concepts=[{"name": "c", "phrase": "blood", "sensitive": True}]).concepts[0].sensitive


@pytest.mark.parametrize(("field", "name"), [("scenario", "txt"), ("concept", "rings"), ("defence", "uces")])
def test_a_limit_on_an_unknown_name_is_refused(field: str, name: str) -> None:
    gate = {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.1, field: name}]}
    with pytest.raises(SpecError, match=f"{field} '{name}' is not in {field}s"):
        spec(gate=gate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scenarios": [{"name": "text", "cases": 10**4000}]},
            r"scenarios\.0\.cases: a whole number of more than 64 bits",
        ),
        (
            {"scenarios": [{"name": "text", "cases": 10**12}]},
            r"scenarios\.0\.text\.cases: .*less than or equal to 1000000",
        ),
        ({"seed": -(10**30)}, r"seed: a whole number of more than 64 bits"),
        (
            {"gate": {"limits": [{"crr_max": 1e-320}]}},
            r"gate\.limits\.0\.crr_max: 9\.99989e-321 is too small to compute",
        ),
        (
            {"gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 1e-9}]}},
            r"crr_max: 1e-09 is less than any number of cases can show; the smallest limit is 1e-06",
        ),
        (
            {"gate": {"version": "1", "judges": ["x"], "limits": [{"crr_max": 0.1}], "confidence": 1 - 1e-12}},
            r"confidence: no number of cases gives that confidence; the largest is 0\.999999",
        ),
        (
            {"defences": [{"name": "x", "eraser": {"method": "uce", "parameters": {"erase_scale": 1e300}}}]},
            r"defences\.0\.eraser\.parameters\.erase_scale: 1e\+300 is too large to compute with",
        ),
    ],
)
def test_numbers_that_nothing_can_be_computed_with_are_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(**changes)


def test_a_bad_entry_is_not_named_as_an_absent_one_too() -> None:
    bad = [{"name": "classifier-guidance", "scale": 0}]
    for scenarios, said in ((bad, "scenarios.0.classifier-guidance.scale"), ([], "scenarios: Tuple should have")):
        with pytest.raises(SpecError) as caught:
            spec(scenarios=scenarios)
        assert caught.value.what.count("\n  - ") == 1 and said in caught.value.what


def test_a_message_names_a_bounded_part_of_the_mistakes() -> None:
    with pytest.raises(SpecError) as error:
        parse_spec({"x" * 100_000: 1, **{f"strange{i}": 1 for i in range(200)}}, "spec.yaml")
    assert len(str(error.value)) < 5_000
    assert "more\n" in str(error.value) and "x" * 600 + "..." in str(error.value)


def test_a_system_is_one_visible_line_and_its_parts_but_the_name_may_be_missing() -> None:
    named = spec(system={"name": " Painter ", "version": "2.1"})
    assert named.system is not None
    assert (named.system.name, named.system.version, named.system.owner) == ("Painter", "2.1", None)
    for hostile in ("two\nlines", "right\u202eleft", "x" * 121, ""):
        with pytest.raises(SpecError, match=r"system\.name"):
            spec(system={"name": hostile})
    with pytest.raises(SpecError, match=r"system\.name"):
        spec(system={"version": "2.1"})
