"""What a report says of how decisions were made: bounds, corrections, attempts, and defences against each other."""

from __future__ import annotations

import dataclasses
from typing import Any

from audit.report import against, decided, json_report, sections
from audit.report.view import Index, Section
from audit.spec.policy import Policy
from audit.verdict.gate import decide
from audit.verdict.results import RunResult
from tests.gate_rows import DECIDED, labels
from tests.report import runs


def section_of(result: RunResult, key: str) -> Section:
    (section,) = [section for section in sections.build(result) if section.key == key]
    return section


def decided_again(run: RunResult, **known: Any) -> RunResult:
    policy = Policy.model_validate(run.spec["gate"])
    verdict = decide(
        policy, run.crr, runs.CHECKS, run.retention, run.picture_checks, run.unassessed, decided_at=DECIDED, **known
    )
    return dataclasses.replace(run, verdict=verdict)


def test_raw_bounds_are_called_raw_and_p_values_stand_beside_their_corrected_ones() -> None:
    run = runs.failing()
    reasons = section_of(run, "reasons")
    assert any("Bounds are raw: they speak of what the judges say" in sentence for sentence in reasons.sentences)
    titles = [column.label for column in reasons.tables[0].columns]
    assert titles[9:13] == ["Bound", "p", "p, corrected", "Cases that would decide"]
    assert {row[9] for row in reasons.tables[0].rows} == {"raw"}


def test_judges_with_labels_are_named_with_what_is_left_of_their_errors() -> None:
    ids = {detector: number for detector, number, _ in runs.DETECTORS}
    both = [labels(detector=d, instrument_id=i) for d, i in ids.items()]
    run = decided_again(runs.passing(), calibrations=both)
    assert "Bounds allow for the judges' own errors" in decided.judge_errors(Index(run))
    assert "With errors of both kinds taken out: ring, uce-ring, text, clip-judge" in decided.judge_errors(Index(run))
    one = decided_again(runs.passing(), calibrations=both[:1])
    assert decided.judge_errors(Index(one)).startswith("Bounds by classifier are raw")
    assert json_report.parse(json_report.render(run)) == run


def test_a_further_attempt_stands_beside_the_verdict() -> None:
    run = decided_again(runs.passing(), attempt=3)
    assert run.verdict.attempt_sentence in section_of(run, "verdict").sentences
    assert "98.3333 % confidence" in section_of(run, "reasons").tables[0].caption
    assert json_report.parse(json_report.render(run)).verdict.attempt == 3


def test_defences_are_set_against_each_other_by_the_judges_alone() -> None:
    run = runs.failing()
    (table,) = section_of(run, "against").tables
    assert [row[3:9] for row in table.rows] == [("none", "uce-ring", "better", "96", "94", "0")] * 2
    assert table.rows[0][10].startswith("-97.9 (")
    other = dataclasses.replace(run.defence_pairs[0], detector="no judge")
    assert against.section(Index(dataclasses.replace(run, defence_pairs=(other,)))) is None


def test_each_scenario_is_told_with_what_the_attacker_controls() -> None:
    """In a run's own report, which may be read without its plan; a search's weights stand in the table of attacks."""
    run = runs.failing()
    brought = [
        {"name": "searched", "kind": "adversarial-text", "method": "p4d"},
        {"name": "by-others", "kind": "adversarial-text", "prompts": {"url": "prompts.csv"}},
        {"name": "from-a-file", "kind": "text", "prompts": {"url": "prompts.csv"}},
        {"name": "embedding-whitebox", "personalisation": "lora.safetensors"},
        {"name": "unheard-of"},
    ]
    run = dataclasses.replace(run, spec={**run.spec, "scenarios": [*run.spec["scenarios"], *brought]})
    (scenarios,) = [value for name, value in section_of(run, "audited").facts if name == "Scenarios"]
    assert "text (the attacker controls prompts (black box)" in scenarios
    assert "latent-whitebox (the attacker controls start noise (white box)" in scenarios
    assert "searched (adversarial-text, the attacker controls prompts found by search)" in scenarios
    assert "by-others (adversarial-text, the attacker controls prompts of a file (black box))" in scenarios
    assert "from-a-file (text, the attacker controls prompts (black box))" in scenarios
    assert "embedding-whitebox (the attacker controls weights added to the model's (white box))" in scenarios
    assert scenarios.endswith("; unheard-of")
