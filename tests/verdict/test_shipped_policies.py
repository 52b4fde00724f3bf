"""Models that show nothing of the concept because they show nothing at all, under every policy that ships with the tool."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.records import Control, Role
from audit.spec.document import load_spec, parse_spec
from audit.spec.policy import Policy
from audit.spec.presets import NAMES, load_preset
from audit.spec.starter import STABLE_DIFFUSION, Answers, write_spec
from audit.verdict import gate
from audit.verdict.decisions import VerdictStatus
from audit.verdict.results import CrrRow, PictureCheckRow, RetentionRow
from tests.gate_rows import DECIDED, FAIL, GOOD_CHECK, PASS, control, labels, picture_check, retention, row

SPECS = Path(__file__).parents[2] / "deployments" / "specs"
CASES = 400


def policies() -> Iterator[Any]:
    for path in sorted(SPECS.glob("*.yaml")):
        yield pytest.param(load_spec(path).gate, id=path.stem)
    for name, backbone in [*((name, STABLE_DIFFUSION) for name in NAMES), ("object", "testbed")]:
        preset = load_preset(name, backbone)
        answers = Answers(preset, preset.concept(None), backbone, {"method": "uce", "preset": "official"})
        text = write_spec(answers, command="erasure-audit init", erasers=("uce",), guards=())
        yield pytest.param(parse_spec(yaml.safe_load(text), name).gate, id=f"preset {name} {backbone[:7]}")


SHIPPED = list(policies())
Second = tuple[list[RetentionRow], list[PictureCheckRow]]


def scenarios_of(policy: Policy) -> list[str]:
    return [limit.scenario or "text" for limit in policy.limits]


def controls_of(policy: Policy) -> list[CrrRow]:
    rows = []
    for judge in policy.judges:
        rows += [control(name, 40, 0, detector=judge) for name in ("reference", "vae-roundtrip")]
        rows.append(control("random-latent", 0, 40, detector=judge))
        rows += [
            control("backbone", 40, 0, detector=judge, scenario=scenario, cell_id=300 + i)
            for i, scenario in enumerate(scenarios_of(policy))
        ]
    return rows


def targets(policy: Policy, hits: int, clear: int, unassessed: int = 0, strange: int = 0) -> list[CrrRow]:
    return [
        dataclasses.replace(
            row(hits, clear, unassessed, cell_id=i, detector=judge, scenario=scenario),
            strange_hits=min(strange, hits), strange=strange,
        )
        for i, scenario in enumerate(scenarios_of(policy))
        for judge in policy.judges
    ]  # fmt: skip


def kept(policy: Policy, **counts: int) -> list[RetentionRow]:
    return [retention(**{"kept": 0, **counts}, detector=judge) for judge in policy.judges_of_retention()]


def noise(policy: Policy, hits: int) -> list[CrrRow]:
    fields = {"cell_id": 400, "role": Role.CONTROL.value, "control": Control.NOISE_LATENT.value, "defence": "none"}
    return [row(hits, 20 - hits, detector=judge, scenario="none", **fields) for judge in policy.judges]


def blocks_everything(policy: Policy) -> tuple[list[CrrRow], Second]:
    """A guard that returns no picture, or only black ones."""
    none_compared = picture_check(None, reason="0 pairs were made", pictures=0)
    return targets(policy, 0, 0, CASES), (kept(policy, hit_unassessed=CASES), [none_compared])


def paints_one_colour(policy: Policy) -> tuple[list[CrrRow], Second]:
    """Pictures that every judge reads and that show nothing."""
    return targets(policy, 0, CASES), (kept(policy, lost=CASES), [picture_check(0.001)])


def paints_noise(policy: Policy) -> tuple[list[CrrRow], Second]:
    """Noise in which the judges see nothing of the concept, and everything that must survive."""
    rows = targets(policy, 0, CASES, strange=CASES) + noise(policy, 0)
    return rows, (kept(policy, kept=CASES, noise_share=1), [picture_check(0.001)])


def paints_noise_that_judges_take_for_the_concept(policy: Policy) -> tuple[list[CrrRow], Second]:
    rows = targets(policy, CASES, 0, strange=CASES) + noise(policy, 20)
    return rows, (kept(policy, lost=CASES), [picture_check(0.001)])


def draws_half(policy: Policy) -> tuple[list[CrrRow], Second]:
    """A model that draws, and has lost half of what must survive; a picture check that sees no damage."""
    return targets(policy, 0, CASES), (kept(policy, kept=CASES // 2, lost=CASES // 2), [picture_check(0.4)])


MODELS = (blocks_everything, paints_one_colour, paints_noise, paints_noise_that_judges_take_for_the_concept, draws_half)


def decide(policy: Policy, rows: list[CrrRow], second: Second, labelled: bool) -> VerdictStatus:
    known = [labels(50, 50, detector=judge) for judge in policy.judges] if labelled else []
    everything = [*rows, *controls_of(policy)]
    return gate.decide(policy, everything, [GOOD_CHECK], *second, calibrations=known, decided_at=DECIDED).status


@pytest.mark.parametrize("labelled", [False, True], ids=["raw", "labels"])
@pytest.mark.parametrize("policy", SHIPPED)
def test_a_model_that_shows_nothing_never_passes(policy: Policy, labelled: bool) -> None:
    sound = targets(policy, 0, CASES), (kept(policy, kept=CASES), [picture_check(0.4)])
    assert decide(policy, *sound, labelled) is PASS  # so that what follows is the models' doing
    for stopping in ("fixed", "anytime"):
        used = policy.model_copy(update={"stopping": stopping})
        verdicts = {model.__name__: decide(used, *model(used), labelled) for model in MODELS}
        assert PASS not in verdicts.values(), verdicts
        assert verdicts["paints_one_colour"] is verdicts["draws_half"] is FAIL


@pytest.mark.parametrize("policy", SHIPPED)
def test_a_policy_of_before_its_newer_fields_still_loads(policy: Policy) -> None:
    newer = {
        "judge_error",
        "labels_max_age_days",
        "labels_min",
        "sensitivity_min",
        "multiplicity",
        "stopping",
        "attempts",
    }
    stored = {name: value for name, value in policy.model_dump(mode="json").items() if name not in newer}
    assert Policy.model_validate(stored) == policy
