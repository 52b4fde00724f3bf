"""Identity, leaf by leaf: every stored field is part of its key, and every field of a spec is known to count or not."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit import identity
from audit.errors import SpecError
from audit.plan.benign import planned_with_benign
from audit.plan.document import KINDS, Plan
from audit.plan.identities import as_json
from audit.plan.resolved import CorpusItem
from audit.records import Instrument, QualityInstrument
from audit.spec.document import parse_spec
from audit.weights.references import ModelRef
from tests.plan.resolved import resolved_of, stated_plan

Leaf = tuple[str | int, ...]
BACKBONE = ModelRef(name="testbed", source="testbed", revision=None, path=Path("."), sha256="a" * 64, files={})
INSTRUMENT = Instrument(1, "judge", "classifier", "1", "torch", "0" * 64, "none", ("ring",), 0.1, 0.5, "{}")
QUALITY = QualityInstrument(2, "likeness", "psnr", "1", "numpy", "", "none", ("psnr",), "{}")
SPEC = parse_spec(
    {
        "name": "leaves",
        "system": {"name": "painter", "version": "1", "owner": "studio", "contact": "desk"},
        "backbone": "models/backbone",
        "concepts": [{"name": "ring", "phrase": "a ring", "synonyms": ["hoop"], "neighbours": ["circle"]}],
        "corpus": [{"url": "x", "concept": "ring"}, {"url": "y", "concept": "arrow", "role": "control"}],
        "calibration": [{"url": "z", "concept": "ring"}],
        "defences": [
            {
                "name": "first",
                "eraser": {"method": "uce", "preset": "testbed"},
                "guards": [
                    {"name": "negative-prompt", "parameters": {"text": "blurred"}},
                    {"name": "prompt-filter", "parameters": {"words": ["smudge"]}},
                ],
            }
        ],
        "scenarios": [
            {"name": "text", "cases": 6, "sampler": {"steps": 10, "guidance": 5.0}},
            {
                "name": "latent-whitebox",
                "cases": 6,
                "sampler": {"steps": 10, "guidance": 1.0},
                "perturbations": [0.1, {"kind": "image-noise", "strength": 4.0}],
            },
            {"name": "latent-blackbox", "cases": 6, "sampler": {"steps": 10, "guidance": 1.0}},
            {
                "name": "embedding-whitebox",
                "cases": 3,
                "parameters": {"iterations": 5, "images": 4, "templates": ["a {attack}"]},
                "sampler": {"steps": 10, "guidance": 5.0},
            },
            {
                "name": "adversarial-text",
                "cases": 3,
                "found": 2,
                "parameters": {"tokens": 5},
                "sampler": {"steps": 10, "guidance": 5.0},
            },
        ],
        "neighbour_cases": 3,
        "controls": {"cases": 3, "unlearned": ["arrow"]},
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "quality": [{"name": "likeness", "kind": "psnr"}],
        "gate": {
            "version": "1",
            "limits": [{"crr_max": 0.1}, {"crr_max": 0.2}],
            "judges": ["judge"],
            "controls": {"reference_min": 0.0, "vae_roundtrip_min": 0.0, "random_latent_max": 1.0, "noise_max": 1.0},
        },
        "unit_size": 4,
    },
    "test",
)
DOCUMENT = SPEC.model_dump(mode="json")

NOTHING = (  # a change here recomputes nothing
    "name", "system.*", "gate.*", "concepts.*.sensitive", "defences.*.name", "scenarios.*.name", "scenarios.*.quality_gate.*",
    "backbone", "corpus.*.url", "corpus.*.regions", "corpus_limits.*",  # what is found there counts by its content
    "corpus.*.attributes", "corpus.1.concept", "controls.unlearned.*",  # a word for pictures that count by their content
    "calibration.*",  # audits never list it
    "benign.subjects", "benign.instrument",  # filled in when the audit is planned
    "scenarios.2.perturbed_cases",  # it has no perturbations
)  # fmt: skip
ELSEWHERE = ("detectors.*", "quality.*", "benign.features")  # count as instruments, below
FIXED = (  # without another valid value
    "version", "gate.kind", "corpus.*.role", "calibration.*.role", "scenarios.*.kind", "scenarios.[12].sampler.guidance",
    "scenarios.[12].sampler.scheduler",  # latents need one that inverts
    "scenarios.*.sampler.distilled",  # belongs to one scheduler: tests/plan/test_samplers.py
    "scenarios.[12].sampler.dtype", "scenarios.[12].method",  # exact samplers exclude guards: tests/plan/test_latent_planning.py
    "defences.*.guards.*.name",
    "defences.*.guards.*.controls",  # only irece has any: tests/plan/test_mask_controls.py
    "scenarios.4.method", "scenarios.4.prompts",  # prompts exclude parameters: tests/attacks/test_ring_a_bell.py
    "scenarios.3.personalisation",  # excludes parameters: tests/attacks/test_personalisation.py
    "scenarios.3.embedding",  # excludes parameters: tests/attacks/test_units.py
    "defences.*.eraser.checkpoint",  # excludes preset and parameters: tests/checkpoints/test_audit.py
)  # fmt: skip
OTHER: dict[str, Any] = {  # where one more, or a letter more, is not valid
    "scenarios.*.control_concept": "arrow",
    "scenarios.*.name": "another-name",
    "scenarios.*.sampler.steps": 20,
    "scenarios.[034].sampler.scheduler": "euler",
    "scenarios.[034].sampler.dtype": "bfloat16",
    "scenarios.0.prompts": {"set": "testbed-simple"},
    "scenarios.1.perturbations.0.kind": "latent-noise-sphere",
    "scenarios.1.perturbations.1.kind": "image-jpeg",
    "scenarios.[12].inversion_prompt": "one {phrase}",
    "scenarios.[12].regeneration_prompt": "one {phrase}",
    "scenarios.2.perturbations": [0.2],
    "scenarios.[12].perturbed_cases": 1,
    "scenarios.[34].preset": "testbed",
    "defences.*.eraser.method": "esd-x",
    "defences.*.eraser.preset": "official",
    "calibration.*.concept": "circle",
    "benign.prompts": {"set": "testbed-benign"},
    "benign.sampler": {"steps": 20},
    "benign.instrument": {"name": "picture-check", "kind": "features", "model": "testbed/energy"},
    "gate.retention_judges": ["judge"],
    "gate.*_waived": "judged by another audit",
    "defences.*.eraser.parameters": {"erase_scale": 2.0},
    "gate.thresholds": {"judge": 0.4},
    "gate.judge_error": "required",
    "gate.multiplicity": "none",
    "gate.stopping": "anytime",
    "gate.attempts": "spend",
    "gate.limits.*.scenario": "text",
    "gate.limits.*.concept": "ring",
    "gate.limits.*.defence": "first",
}


def leaves(node: Any, path: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Path and value of everything that holds nothing further, empty lists and mappings included."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, (*path, name))
    elif isinstance(node, list) and node:
        for number, value in enumerate(node):
            yield from leaves(value, (*path, number))
    else:
        yield path, node


def with_leaf(document: Any, path: Leaf, value: Any) -> Any:
    changed = copy.deepcopy(document)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


def renamed(node: Any, old: str, new: str) -> Any:
    """The document with `new` wherever exactly `old` stood, so that names still point to each other."""
    if isinstance(node, dict):
        return {name: renamed(value, old, new) for name, value in node.items()}
    if isinstance(node, list):
        return [renamed(value, old, new) for value in node]
    return new if node == old and isinstance(node, str) else node


def dotted(path: Leaf) -> str:
    return ".".join(map(str, path))


def listed(name: str, patterns: Any) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def another(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.9 if value else 0.5
        case str():
            return value + "b"
        case None:
            return "b"
        case list():
            return ["b"]
        case dict():
            return {"b": "b"}
        case _:
            raise AssertionError(value)


def changed_spec(path: Leaf, value: Any) -> Any:
    for pattern, other in OTHER.items():
        if listed(dotted(path), [pattern]):
            return with_leaf(DOCUMENT, path, other)
    return (
        renamed(DOCUMENT, value, another(value))
        if isinstance(value, str)
        else with_leaf(DOCUMENT, path, another(value))
    )


def plan_of(
    document: Any = DOCUMENT, instrument: Instrument = INSTRUMENT, quality: QualityInstrument = QUALITY
) -> Plan:
    pictures = {
        name: [CorpusItem(identity.key([name.rstrip("b"), i]), f"file:///{i}") for i in range(8)]
        for name in ("ring", "ringb", "arrow", "arrowb")
    }
    spec, benign = planned_with_benign(parse_spec(document, "test"))
    return stated_plan(
        resolved_of(spec, BACKBONE, items=pictures, instrument=instrument, quality=quality, benign=benign)
    )


@functools.cache
def unchanged() -> Plan:
    """The plan that changed ones are compared with."""
    return plan_of()


def keys(plan: Plan) -> set[str]:
    return set(plan.units["key"].to_pylist())


def test_every_leaf_of_every_units_stored_identity_is_part_of_its_key() -> None:
    units = [(row["kind"], row["key"], json.loads(row["identity"])) for row in unchanged().units.to_pylist()]
    assert {kind for kind, *_ in units} == set(KINDS)
    for _, key, stored in units:
        assert identity.key(stored) == key
        for path, value in leaves(stored):
            assert identity.key(with_leaf(stored, path, another(value))) != key, dotted(path)


def test_units_carry_what_their_pictures_and_scores_depend_on() -> None:
    """So that a field cannot silently leave the identity, and the test above go on passing."""
    fields: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for unit in (u for kind in KINDS for u in unchanged().units_of(kind)):
        fields[unit.kind] |= set(as_json(unit.identity))
    assert fields == {
        "erase": {"kind", "backbone", "method", "parameters", "concept", "code"},
        "attack": {
            "kind", "backbone", "method", "version", "parameters", "concept", "seed", "model", "images", "items", "code",
        },
        "invert": {
            "kind", "backbone", "model", "method", "steps", "passes", "tolerance", "prompt", "perturbation", "code", "items",
        },
        "generate": {
            "kind", "source", "backbone", "model", "guards", "sampler", "solver", "perturbation", "code", "images",
        },
        "filter": {"kind", "generate", "filter", "code"},
        "detect": {"kind", "generate", "instrument", "code"},
        "quality": {"kind", "generate", "baselines", "instrument", "pairs", "code"},
    }  # fmt: skip


SPEC_LEAVES = [(path, value) for path, value in leaves(DOCUMENT) if not listed(dotted(path), (*FIXED, *ELSEWHERE))]


@pytest.mark.parametrize(("path", "value"), SPEC_LEAVES, ids=[dotted(path) for path, _ in SPEC_LEAVES])
def test_every_leaf_of_a_spec_changes_keys_unless_it_is_declared_to_recompute_nothing(path: Leaf, value: Any) -> None:
    changed = changed_spec(path, value)
    assert parse_spec(changed, "test") != SPEC
    assert (keys(plan_of(changed)) == keys(unchanged())) is listed(dotted(path), NOTHING)


def test_the_declared_lists_speak_of_leaves_that_exist() -> None:
    names = [dotted(path) for path, _ in leaves(DOCUMENT)]
    for pattern in (*NOTHING, *ELSEWHERE, *FIXED, *OTHER):
        assert fnmatch.filter(names, pattern), pattern


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Instrument)])
def test_every_field_of_an_instrument_but_its_name_and_threshold_changes_the_detect_keys(field: str) -> None:
    value = getattr(INSTRUMENT, field)
    other = (*value, "b") if isinstance(value, tuple) else another(value)
    before = unchanged()
    after = plan_of(instrument=dataclasses.replace(INSTRUMENT, **{field: other}))
    old, new = ({unit.key for unit in plan.units_of("detect")} for plan in (before, after))
    assert (old == new) is (field in ("detector", "threshold"))
    assert not old & new or field in ("detector", "threshold")
    assert keys(before) - old == keys(after) - new


def test_a_declared_neighbours_phrase_is_part_of_the_key_of_what_preserves_it() -> None:
    def ring_eraser(phrase: str) -> tuple[str, str]:
        both = [*DOCUMENT["concepts"], {"name": "circle", "phrase": phrase}]
        text_only = {"scenarios": DOCUMENT["scenarios"][:1], "corpus": [], "controls": {"cases": 1}}
        spec = parse_spec({**DOCUMENT, **text_only, "concepts": both}, "test")
        assert parse_spec(spec.model_dump(mode="json"), "test") == spec
        assert spec.concepts[0].phrase_of("circle") == spec.concept("circle").phrase == phrase
        plan = plan_of(spec.model_dump(mode="json"))
        (unit,) = (u for u in plan.units_of("erase") if u.identity.concept.name == "ring")
        return unit.key, unit.identity.concept.neighbour_phrases["circle"]

    (key, phrase), (other_key, other_phrase) = ring_eraser("a disc"), ring_eraser("a dot")
    assert (phrase, other_phrase) == ("a disc", "a dot") and key != other_key


def test_phrases_of_neighbours_are_filled_in_and_never_given() -> None:
    given = with_leaf(DOCUMENT, ("concepts", 0, "neighbour_phrases"), {"circle": "a disc"})
    with pytest.raises(SpecError, match="declare the neighbour as a concept"):
        parse_spec(given, "test")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(QualityInstrument)])
def test_every_field_of_a_quality_instrument_but_its_name_changes_the_quality_keys_alone(field: str) -> None:
    value = getattr(QUALITY, field)
    other = (*value, "b") if isinstance(value, tuple) else "ssim" if field == "kind" else another(value)
    before, after = unchanged(), plan_of(quality=dataclasses.replace(QUALITY, **{field: other}))
    old, new = ({unit.key for unit in plan.units_of("quality")} for plan in (before, after))
    assert old and (not old & new if field != "instrument" else old == new)
    assert keys(before) - old == keys(after) - new
