"""Every format says what must survive, what was lost, and what the policy does not judge."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from audit.records import BENIGN_PROMPTS, Role
from audit.report import contact, controls, json_report, junit, markdown, quality, sections, survival, terminal
from audit.report.view import Index, Section, cell_title
from audit.report.words import VERDICT_SENTENCES, plain, verdict_sentence
from audit.spec.benign import PICTURE_CHECK
from audit.spec.policy import Policy
from audit.verdict.controls import findings
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.gate import decide
from audit.verdict.results import QualityRow, RunResult, UnassessedRow
from tests.report import runs
from tests.report.page import rendered

TEXTS: dict[str, Callable[[RunResult], str]] = {
    "html": lambda run: rendered(run, lambda sample: None).words(),
    "markdown": lambda run: markdown.render(run).replace("\\", ""),
    "terminal": terminal.render,
}
every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
WAIVERS = (
    "retention: not judged (the model draws nothing but rings)",
    "damage: not judged (no network knows these pictures)",
)


def section_of(run: RunResult, key: str) -> Section:
    return next(section for section in sections.build(run) if section.key == key)


def test_fixtures_are_what_they_are_called() -> None:
    assert runs.wrecked().verdict.damage[0].damaged
    assert runs.lossy().verdict.status is VerdictStatus.FAIL
    assert runs.undecided().verdict.status is VerdictStatus.INCONCLUSIVE
    assert runs.waived().verdict.status is VerdictStatus.PASS
    assert runs.waived().verdict.waivers == WAIVERS


def test_retention_is_one_table_and_the_picture_check_another() -> None:
    kept, drawn, pairs = section_of(runs.lossy(), "survival").tables
    assert [row[:6] for row in kept.rows] == [
        ("✕ FAIL", "ring", "uce-ring", judge, "12 / 30", "30") for judge in ("clip-judge", "classifier")
    ]
    assert (kept.rows[0][8], kept.rows[0][11]) == ("80 %", "none")
    assert drawn.rows == (
        ("✓ PASS", "ring", "uce-ring", "still draws", PICTURE_CHECK, "32", "0.13", "0.13", "0.4", "0.01"),
    )
    assert pairs.rows[0] == ("benign prompts", "ring", "uce-ring", "clip-judge", "30", "12", "18", "0", "0", "0")


def test_a_damaged_model_is_called_so() -> None:
    _, drawn, _ = section_of(runs.wrecked(), "survival").tables
    assert drawn.rows[0][:4] == ("? INCONCLUSIVE", "ring", "uce-ring", "damaged")
    assert drawn.rows[0][6:] == ("0.393", "0.13", "0.001", "0.01")


def test_what_is_undecided_says_what_would_decide_it() -> None:
    kept, drawn, pairs = section_of(runs.undecided(), "survival").tables
    assert kept.rows[0][0] == "? INCONCLUSIVE"
    assert int(kept.rows[0][9].replace(",", "")) > 0
    assert drawn.rows[0][3] == "not known" and drawn.rows[0][6:9] == ("n/a", "n/a", "n/a")
    assert pairs.rows[0][-1] == "1"


def test_a_share_that_nothing_bounds_is_no_number() -> None:
    run = runs.lossy()
    loose = dataclasses.replace(run.verdict.retention[0], high=math.inf)
    run = dataclasses.replace(run, verdict=dataclasses.replace(run.verdict, retention=(loose,)))
    assert section_of(run, "survival").tables[0].rows[0][7] == "no bound"
    assert json_report.parse(json_report.render(run)) == run


@every_text
def test_waivers_stand_beside_the_verdict(text: Callable[[RunResult], str]) -> None:
    shown = text(runs.waived())
    verdict = shown.index(VERDICT_SENTENCES[VerdictStatus.PASS])
    for waiver in WAIVERS:
        assert verdict < shown.index(waiver) < shown.index("Exit code 0.")
        assert shown.count(waiver) >= 2, "once beside the verdict, once in the section, once with the policy"
    assert "enough of what must survive" not in shown.lower().partition("exit code")[0]


def test_nothing_is_said_of_prompts_that_were_not_drawn() -> None:
    assert section_of(runs.waived(), "survival") == Section("survival", "What must survive", WAIVERS)


def test_waivers_are_skipped_cases_and_properties() -> None:
    root = ElementTree.fromstring(junit.render(runs.waived()))
    skipped = {case.get("name"): case.find("skipped") for case in root.iter("testcase")}
    assert [skipped[f"{side} | waived"].get("message") for side in ("retention", "damage")] == list(WAIVERS)  # type: ignore[union-attr]
    for suite in root:
        found = {entry.get("name"): entry.get("value") for entry in suite.iter("property")}
        assert (found["waived.retention"], found["waived.damage"]) == WAIVERS
    assert root.get("skipped") == "2"


def test_what_was_lost_fails_in_junit_and_damage_is_an_error() -> None:
    lost = ElementTree.fromstring(junit.render(runs.lossy()))
    messages = [problem.get("message", "") for problem in lost.iter("failure")]
    assert messages[0].startswith("FAIL: Of what must survive") and len(messages) == 3
    broken = ElementTree.fromstring(junit.render(runs.wrecked()))
    (suite,) = (suite for suite in broken if suite.get("name") == "erasure-audit.survival")
    errors = [problem.get("message", "") for problem in suite.iter("error")]
    assert [message for message in errors if message.startswith("The model is damaged")]


def test_json_has_the_decisions_and_the_waivers() -> None:
    document = json.loads(json_report.render(runs.waived()))
    assert document["verdict"]["waivers"] == list(WAIVERS)
    assert document["schema_version"] == 1
    document = json.loads(json_report.render(runs.wrecked()))
    assert document["verdict"]["damage"][0]["damaged"] is True
    assert document["retention"][0]["lost"] == 28 and document["picture_checks"][0]["p_value"] == 0.001


def test_json_of_before_anything_had_to_survive_is_still_read() -> None:
    document = json.loads(json_report.render(runs.passing()))
    for name in ("retention", "picture_checks", "attacks"):
        del document[name]
    for name in ("retention", "damage", "waivers"):
        del document["verdict"][name]
    for row in document["crr"]:
        del row["strange_hits"]
    run = json_report.parse(json.dumps(document))
    assert verdict_sentence(run.verdict) == VERDICT_SENTENCES[VerdictStatus.PASS]
    shown = section_of(run, "survival")
    assert shown.tables == ()
    for side in ("retention", "damage"):
        assert f"{side}: not judged (this run holds no decision on it)" in shown.sentences


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (runs.passing, "Enough of what must survive does, and every defended model still draws."),
        (
            runs.lossy,
            "The gate stays shut. Through at least one defence less of what must survive is left than the policy",
        ),
        (runs.wrecked, "Through at least one defence less of what must survive is left"),
        (runs.wrecked, "A defended model is damaged."),
        (runs.undecided, "stays within its limit, but this run is no proof that what must survive does."),
    ],
)
@every_text
def test_the_verdict_speaks_of_both_sides(
    run: Callable[[], RunResult], said: str, text: Callable[[RunResult], str]
) -> None:
    assert said in text(run())


def test_the_verdict_says_only_what_was_judged() -> None:
    good = runs.passing().verdict
    base = VERDICT_SENTENCES[VerdictStatus.PASS]
    assert verdict_sentence(dataclasses.replace(good, damage=())) == f"{base} Enough of what must survive does."
    assert verdict_sentence(dataclasses.replace(good, retention=())) == f"{base} Every defended model still draws."
    assert verdict_sentence(runs.failing().verdict) == VERDICT_SENTENCES[VerdictStatus.FAIL]
    assert "comes back" not in verdict_sentence(runs.lossy().verdict)
    both = dataclasses.replace(runs.failing().verdict, retention=runs.lossy().verdict.retention)
    for sentence in ("comes back more often", "less of what must survive is left"):
        assert sentence in verdict_sentence(both)
    damaged = dataclasses.replace(runs.wrecked().verdict, retention=(), status=VerdictStatus.INCONCLUSIVE)
    assert verdict_sentence(damaged).endswith("no rate says that a concept is gone from it.")
    nothing = Verdict(VerdictStatus.INCONCLUSIVE, (), (), ())
    assert verdict_sentence(nothing) == VERDICT_SENTENCES[VerdictStatus.INCONCLUSIVE]


def test_many_decisions_keep_their_reasons_in_their_tables() -> None:
    run = runs.undecided()
    many = tuple(
        dataclasses.replace(run.verdict.retention[0], defence=f"d{i}", reason=f"Kept number {i}.") for i in range(40)
    )
    damaged = dataclasses.replace(run.verdict.damage[0], damaged=True, reason="The model is damaged.")
    drawn = tuple(dataclasses.replace(damaged, damaged=i == 0, reason=f"Drawn number {i}.") for i in range(40))
    reasons = (drawn[0].reason, *(decision.reason for decision in (*many, *drawn[1:])))
    verdict = dataclasses.replace(run.verdict, retention=many, damage=drawn, reasons=reasons)
    text = markdown.render(dataclasses.replace(run, verdict=verdict))
    assert text.count("\n- Kept number") + text.count("\n- Drawn number") == 13, "12, and the one that is damage"
    assert "\n- Drawn number 0." in text
    for reason in reasons:
        assert reason in text


def test_noise_controls_say_which_detector_takes_noise_for_the_concept() -> None:
    shown = section_of(runs.wrecked(), "controls")
    found = {(row[0], row[4]): row[-2:] for row in shown.tables[0].rows if row[0].startswith("noise")}
    assert found["noise, decoded", "clip-judge"] == ("≤ 10 %", "? takes noise for it")
    assert found["noise pixels", "clip-judge"] == ("≤ 10 %", "✓ holds")
    assert shown.sentences[0].startswith("All ") and "hold it." in shown.sentences[0]
    assert "blocks nothing by that" in shown.sentences[1]
    assert len(section_of(runs.passing(), "controls").sentences) == 1


def test_noise_that_was_not_read_shows_nothing() -> None:
    run = runs.wrecked()
    row = next(row for row in run.crr if row.control == "noise-latent")
    unread = dataclasses.replace(row, assessed=0, hits=0, unassessed=row.planned, rate=None)
    policy = Policy.model_validate(run.spec["gate"])
    (finding,) = findings(policy, [unread])
    assert (controls.required(finding), finding.holds) == ("≤ 10 %", None)
    assert not findings(Policy.model_validate({**run.spec["gate"], "controls": {"noise_max": 1.0}}), [row])
    assert controls.required(None) == "none"


def test_a_missing_control_is_the_same_finding_for_the_gate_and_every_report() -> None:
    run = runs.passing()
    crr = tuple(row for row in run.crr if row.control != "reference")
    lacking = dataclasses.replace(
        run, crr=crr, verdict=decide(Policy.model_validate(run.spec["gate"]), crr, runs.CHECKS, run.retention)
    )
    missing = [finding for finding in lacking.verdict.controls if finding.cell_id is None]
    assert {(finding.control, finding.detector) for finding in missing} == {
        ("reference", "clip-judge"), ("reference", "classifier"),
    }  # fmt: skip
    for finding in missing:
        assert any(f"But {finding.trouble}" in decision.reason for decision in lacking.verdict.decisions)
    shown = section_of(lacking, "controls")
    rows = [row for row in shown.tables[0].rows if row[0] == "reference images"]
    assert [row[-2:] for row in rows] == [("≥ 90 %", "✕ missing")] * 2
    assert "do not hold it" in shown.sentences[0]
    for text in (*TEXTS.values(), json_report.render):
        assert "missing" in text(lacking)


@every_text
def test_benign_prompts_stand_among_the_neighbours(text: Callable[[RunResult], str]) -> None:
    run = runs.lossy()
    rows = section_of(run, "neighbours").tables[0].rows
    assert [(row[0], row[1], row[-1]) for row in rows if row[3] == "clip-judge"] == [
        ("benign prompts", "none (un-erased)", "baseline"),
        ("benign prompts", "uce-ring", "−60.0 points"),
    ]
    assert "Neighbour concepts and benign prompts" in section_of(run, "neighbours").tables[0].caption
    assert "benign prompts" in text(run) and BENIGN_PROMPTS not in text(run).partition("Resolved spec")[0]


def test_benign_cells_of_several_concepts_are_told_apart() -> None:
    run = runs.lossy()
    others = tuple(
        dataclasses.replace(r, cell_id=500 + r.cell_id, concept="disc") for r in run.crr if r.role == "benign"
    )
    rows = section_of(dataclasses.replace(run, crr=run.crr + others), "neighbours").tables[0].rows
    assert {row[0] for row in rows} == {"benign prompts beside ring", "benign prompts beside disc"}
    assert cell_title(others[0]) == "benign prompts beside disc · none (un-erased) · text"


def unruled(run: RunResult, cases: int) -> RunResult:
    """The run whose classifier has no counting rule for some subjects of its benign prompts."""
    cells = [row.cell_id for row in run.crr if row.role == Role.BENIGN and row.detector == "classifier"]
    why = "no counting rule says which labels of this detector mean the subject"
    rows = tuple(UnassessedRow(cell, "classifier", "not-measured", cases, why) for cell in cells)
    retention = tuple(r for r in run.retention if r.detector != "classifier")
    return dataclasses.replace(run, unassessed=run.unassessed + rows, retention=retention)


def test_cases_without_a_counting_rule_are_summarised() -> None:
    shown = section_of(unruled(runs.lossy(), 30), "unassessed")
    assert shown.sentences[1] == (
        "Detector classifier has no counting rule for what 60 cases of 2 benign cells show: they count in none of its "
        "decisions."
    )
    assert not any("counting rule" in cell for row in shown.tables[0].rows for cell in row)
    only = dataclasses.replace(unruled(runs.lossy(), 30), unassessed=unruled(runs.lossy(), 30).unassessed[-2:])
    assert section_of(only, "unassessed").sentences[1] == "Every other planned case was assessed."


def test_cases_that_were_lost_for_another_reason_are_not_summarised() -> None:
    run = unruled(runs.lossy(), 5)
    kept = dataclasses.replace(run, retention=runs.lossy().retention)  # whose 30 pairs all have a rule
    assert survival.without_rules(Index(kept)) == ()
    assert len(section_of(kept, "unassessed").tables[0].rows) == 2 + len(
        section_of(runs.lossy(), "unassessed").tables[0].rows
    )


def test_the_picture_check_is_no_empty_entry_of_the_picture_quality() -> None:
    row = QualityRow(0, 1, PICTURE_CHECK, "features", "ab" * 32, "cmmd", "backbone", 8, 0, 8, None, None, 0, None, None)
    entry = {"instrument": PICTURE_CHECK, "metrics": ()}
    run = dataclasses.replace(runs.passing(), quality=(row,), quality_instruments=(entry,))
    assert quality.section(Index(run)) is None
    other = dataclasses.replace(row, instrument="clip")
    shown = quality.section(Index(dataclasses.replace(run, quality=(row, other))))
    assert shown is not None and len(shown.tables[0].rows) == 1


def test_the_policy_names_both_sides() -> None:
    facts = dict(section_of(runs.passing(), "audited").facts)
    assert (
        "at least 80 % of what must survive kept (retention_min); damage at level 0.01 (damage_level)"
        in facts["Policy"]
    )
    assert "; ".join(WAIVERS) in dict(section_of(runs.waived(), "audited").facts)["Policy"]


def test_the_system_is_named_with_its_version_and_owner() -> None:
    system = {"name": "Painter", "version": "2.1", "owner": "R. Fuchs", "contact": None}
    run = runs.passing()
    facts = dict(section_of(dataclasses.replace(run, spec={**run.spec, "system": system}), "audited").facts)
    assert (facts["System"], facts["Owner"]) == ("Painter 2.1", "R. Fuchs")
    assert "System" not in dict(section_of(run, "audited").facts)


def test_benign_pictures_of_sensitive_concepts_are_blurred() -> None:
    run = runs.lossy()
    benign = {cell_title(row) for row in run.crr if row.role == Role.BENIGN}
    sheets = {sheet.title: sheet for sheet in contact.contact_sheets(run, runs.picture)}
    assert benign <= set(sheets) and not any(sheets[title].blurred for title in benign)
    spec = {**run.spec, "concepts": [{"name": "ring", "phrase": "ring", "sensitive": True}]}
    hidden = {s.title: s for s in contact.contact_sheets(dataclasses.replace(run, spec=spec), runs.picture)}
    assert all(hidden[title].blurred for title in benign)


@every_text
def test_hostile_waivers_stay_one_line(text: Callable[[RunResult], str]) -> None:
    run = runs.hostile()
    assert plain(run.verdict.waivers[0])[:60] in text(run).replace("&lt;", "<").replace("&gt;", ">")
