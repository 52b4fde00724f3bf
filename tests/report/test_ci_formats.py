"""What forges read: SARIF of the published form, a summary that is short, and no name that acts in either."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from audit.report import junit, markdown, sarif, summary
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import Comparison
from audit.verdict.results import RunResult
from tests.report import comparisons, runs

RUNS = {
    name: getattr(runs, name)
    for name in ("passing", "failing", "inconclusive", "empty", "hostile", "wrecked", "lossy", "waived")
}
COMPARED: dict[str, Callable[[], Comparison | None]] = {
    "alone": lambda: None, "regressed": comparisons.regressed, "hostile": comparisons.hostile
}  # fmt: skip
every_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
every_comparison = pytest.mark.parametrize("compared", COMPARED.values(), ids=COMPARED)

TEXT = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "string"}},
}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


# The parts of SARIF 2.1.0 that are used; nothing else may be there.
SCHEMA = strict(
    ["version", "runs"],
    **{
        "$schema": {
            "const": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
        }
    },
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": strict(
            ["tool", "results"],
            tool=strict(
                ["driver"],
                driver=strict(
                    ["name"],
                    name={"const": "erasure-audit"},
                    version={"type": "string"},
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": strict(["id"], id={"type": "string"}, name={"type": "string"}, shortDescription=TEXT),
                    },
                ),
            ),
            automationDetails=strict([], id={"type": "string"}),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            properties={"type": "object"},
            results={
                "type": "array",
                "items": strict(
                    ["message"],
                    ruleId={"type": "string"},
                    ruleIndex={"type": "integer", "minimum": 0},
                    level={"enum": ["none", "note", "warning", "error"]},
                    message=TEXT,
                    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
                    locations={
                        "type": "array",
                        "items": strict(
                            [],
                            logicalLocations={
                                "type": "array",
                                "uniqueItems": True,
                                "items": strict(
                                    [],
                                    name={"type": "string"},
                                    kind={"type": "string"},
                                    fullyQualifiedName={"type": "string"},
                                ),
                            },
                            physicalLocation=strict(
                                ["artifactLocation"],
                                artifactLocation=strict([], uri={"type": "string", "pattern": r"^[A-Za-z0-9_.~/%-]+$"}),
                                region=strict([], startLine={"type": "integer", "minimum": 1}),
                            ),
                        ),
                    },
                ),
            },
        ),
    },
)


def findings(result: RunResult, compared: Comparison | None = None, spec_file: str | None = None) -> list[Any]:
    document = json.loads(sarif.render(result, compared, spec_file), parse_constant=pytest.fail)
    jsonschema.validate(document, SCHEMA)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[finding["ruleIndex"]] == finding["ruleId"] for finding in run["results"])
    found: list[Any] = run["results"]
    return found


@every_run
@every_comparison
def test_sarif_is_of_the_published_form(
    run: Callable[[], RunResult], compared: Callable[[], Comparison | None]
) -> None:
    found = findings(run(), compared(), "./audits/ring nü.yaml")
    assert bool(found) == (run().verdict.status is not VerdictStatus.PASS or compared() is not None)
    for finding in found:
        assert (
            not re.search(r"[\x00-\x1f\u202e\ud800]", finding["message"]["text"])
            and len(finding["message"]["text"]) <= 1000
        )
        (location,) = finding["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "audits/ring%20n%C3%BC.yaml"


def test_a_finding_is_known_again_in_the_next_run() -> None:
    first = runs.failing()
    later = dataclasses.replace(first, run_id="later", created_at="2027-01-01T00:00:00+00:00")
    elsewhere = dataclasses.replace(first, spec={**first.spec, "system": {"name": "another"}})

    def prints(result: RunResult) -> list[str]:
        return [f["partialFingerprints"][sarif.FINGERPRINT] for f in findings(result, comparisons.regressed())]

    assert prints(first) == prints(later) and len(set(prints(first))) == len(prints(first))
    assert not set(prints(first)) & set(prints(elsewhere))


def test_a_regression_is_a_finding_of_its_own_and_one_that_is_not_shown_a_warning() -> None:
    levels = [
        (f["level"], f["locations"][0]["logicalLocations"][0]["fullyQualifiedName"])
        for f in findings(runs.passing(), comparisons.regressed())
        if f["ruleId"] == "regression"
    ]
    assert levels == [("error", "ring/ring/text/judge"), ("warning", "ring/ring/latent/judge")]
    assert "physicalLocation" not in findings(runs.failing())[0]["locations"][0]


@every_run
@every_comparison
def test_a_summary_is_short_and_its_tables_hold(
    run: Callable[[], RunResult], compared: Callable[[], Comparison | None]
) -> None:
    lines = summary.render(run(), compared()).splitlines()
    assert len(lines) <= summary.MOST_LINES and max(map(len, lines)) < 4000
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| ")}
    assert len(columns) <= 1


def test_a_summary_says_the_worse_of_gate_and_regression_first() -> None:
    lines = summary.render(runs.passing(), comparisons.regressed()).splitlines()
    assert lines[0].startswith("## ✕ FAIL: ") and lines[2] == "Gate PASS, regression FAIL; the worse one counts."
    regressed = lines[lines.index("### ✕ Regression FAIL, against ring-1") :]
    (worse, unknown) = [line for line in regressed if line.startswith("- ")]
    assert "14 of 116 cases came back" in worse and "it got worse" in worse
    assert "up to" in unknown


def test_a_long_run_is_cut_and_what_is_left_out_is_counted() -> None:
    run = runs.failing()
    (first, *_) = run.verdict.decisions
    many = tuple(
        dataclasses.replace(first, concept=f"concept {c:02}", scenario=f"scenario {s:02}")
        for c in range(30)
        for s in range(11)
    )
    verdict = dataclasses.replace(run.verdict, decisions=many, reasons=tuple(d.reason for d in many))
    text = summary.render(dataclasses.replace(run, verdict=verdict), comparisons.regressed())
    assert len(text.splitlines()) <= summary.MOST_LINES
    assert "Left out: 10 rows and 3 scenarios; the report has them all." in text
    assert "- and 325 more" in text


def test_no_name_links_calls_or_acts_in_a_summary() -> None:
    called = "@everyone see #12, GH-7, https://evil.example/x and www.evil.example <img src=x> | ![x](y)"
    run = dataclasses.replace(runs.failing(), name=called)
    text = summary.render(run, comparisons.compared(comparisons.pairs(came_back=14), name=called))
    assert "evil" in text
    shown = text.replace("<!-- -->", "\0")
    assert not re.search(r"@\w|#\d|GH-\d|://\w|www\.|(?<!\\)\]\(|<img|(?<!\\)!\\?\[", shown)
    hostile = summary.render(runs.hostile(), comparisons.hostile()).replace("<!-- -->", "")
    assert not re.search(r"<[a-zA-Z/!]", hostile)
    assert not any(ord(character) < 32 and character != "\n" for character in hostile)


def test_hostile_names_stay_text_in_every_form_of_a_comparison() -> None:
    compared = comparisons.hostile()
    written = re.sub(r"^(`{3,})\n.*?\n\1$", "", markdown.render_comparison(compared), flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"<[a-z/]+", written)) <= {"<details", "<summary", "</summary", "</details"}
    suites = ElementTree.fromstring(junit.render(runs.passing(), compared))
    (suite,) = [suite for suite in suites if suite.get("name", "").endswith("regression")]
    assert (suite.get("failures"), suite.get("errors")) == ("2", "1")  # the verdict, the worse cell and the open one
