"""Filters in the plan: pictures are planned without them, once, whichever defence lists them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from audit.errors import SpecError
from audit.plan.benign import require_blocking_judged
from audit.plan.document import Plan
from audit.records import Control
from audit.spec.document import parse_spec
from audit.weights.references import ModelRef, resolve_model
from tests.flows.audits import WAIVED, plan_run, tiny_spec
from tests.plan.test_planner import SPEC, plan_of
from tests.test_identity import DOCUMENT

WORDS = {"name": "prompt-filter", "parameters": {"words": ["ring"]}}
CLIP = {"name": "clip-filter", "parameters": {"model": "testbed/judge", "cosine": 0.3}}


@pytest.fixture(scope="module")
def backbone(tiny_folder: Any) -> ModelRef:
    return resolve_model(str(tiny_folder))


def planned(backbone: ModelRef, *guards: dict[str, Any]) -> Plan:
    document = copy.deepcopy(SPEC)
    document["defences"][0]["guards"] = list(guards)
    return plan_of(backbone, document)


def keys(plan: Plan, kind: str) -> list[str]:
    return [unit.key for unit in plan.units_of(kind)]


def test_a_filter_adds_units_of_its_own_and_changes_no_other(backbone: ModelRef) -> None:
    plain, filtered = planned(backbone), planned(backbone, WORDS, CLIP)
    assert not keys(plain, "filter") and keys(filtered, "filter")
    for kind in ("erase", "attack", "invert", "generate", "detect", "quality"):
        assert keys(plain, kind) == keys(filtered, kind)
    assert plain.cases.equals(filtered.cases)


def test_where_a_filter_stands_among_guards_makes_no_difference(backbone: ModelRef) -> None:
    guard = {"name": "negative-prompt"}
    before, after = planned(backbone, WORDS, guard), planned(backbone, guard, WORDS)
    assert keys(before, "generate") == keys(after, "generate") == keys(planned(backbone, guard), "generate")
    assert keys(before, "filter") == keys(after, "filter")


def test_filters_of_prompts_wait_for_no_picture_and_random_latents_have_no_filter(backbone: ModelRef) -> None:
    plan = planned(backbone, WORDS, CLIP)
    for unit in plan.units_of("filter"):
        by_prompt = unit.identity.filter.name == "prompt-filter"  # type: ignore[union-attr]
        assert (unit.identity.generate in unit.depends) is not by_prompt  # type: ignore[union-attr]
    for cell in (planned.cell for planned in plan.cells):
        named = [one.name for one in cell.filters]
        bare = cell.defence == "none" or cell.control is Control.RANDOM_LATENT
        assert named == ([] if bare else ["prompt-filter", "clip-filter"])


def test_every_parameter_of_a_filter_is_part_of_its_units_keys(backbone: ModelRef) -> None:
    def of(guard: dict[str, Any], **parameters: Any) -> set[str]:
        return set(keys(planned(backbone, {**guard, "parameters": {**guard["parameters"], **parameters}}), "filter"))

    assert not of(WORDS) & of(WORDS, words=["star"])
    assert of(WORDS) == of(WORDS, words=["RING", "ring "])
    assert not of(CLIP) & of(CLIP, cosine=0.4)
    assert not of(CLIP) & of(CLIP, model="testbed/energy")


def test_a_filter_is_not_judged_by_its_own_network_alone(tiny_folder: Path, tmp_path: Path) -> None:
    clip = {"name": "clip", "kind": "clip-zero-shot", "model": "testbed/judge", "background": ["a moon"]}
    other = {"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}

    def plan(guard: dict[str, Any], detectors: list[dict[str, Any]], judges: list[str]) -> None:
        gate = {"version": "1", "judges": judges, "limits": [{"crr_max": 0.3}], "blocked": "unassessed", **WAIVED}
        defences = [{"name": "filtered", "guards": [guard]}]
        plan_run(tiny_spec(tmp_path, tiny_folder, defences=defences, detectors=detectors, gate=gate), tmp_path / "root")

    nude = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}}
    for guard, judge in ((CLIP, clip), ({"name": "nudenet-filter"}, nude)):
        with pytest.raises(SpecError, match="each judge of the gate reads with this filter's own network"):
            plan(guard, [judge, other], [str(judge["name"])])
        plan(guard, [judge, other], [str(judge["name"]), "classifier"])


def test_too_few_benign_prompts_for_the_limit_are_refused() -> None:
    def check(**changes: Any) -> None:
        document = copy.deepcopy(DOCUMENT)
        document["gate"] |= changes.pop("gate", {})
        require_blocking_judged(parse_spec({**document, **changes}, "test"))

    check()
    check(benign={"cases": 29})
    with pytest.raises(SpecError, match=r"benign_blocked_max 0.1 takes at least 29 .*benign.cases is 28"):
        check(benign={"cases": 28})
    with pytest.raises(SpecError, match=r"benign_blocked_max 0.05 takes at least 59"):
        check(gate={"benign_blocked_max": 0.05})
    check(benign={"cases": 28}, gate={"blocked": "unassessed"})
