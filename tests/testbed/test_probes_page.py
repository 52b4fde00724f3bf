"""The probes' block of the testbed's page: which control stands beside which probe, and when a probe finds more."""

from __future__ import annotations

import dataclasses

import pytest

from audit.verdict.results import CrrRow
from deployments.testbed_page import probes
from tests.report import runs
from tests.testbed.test_page import cells


def row(
    scenario: str,
    defence: str,
    hits: int,
    control: str | None = None,
    subject: str = "ring",
    kind: str = "",
    **more: object,
) -> CrrRow:
    role = "target" if control is None else "control"
    made = CrrRow(
        0, "ring", subject, role, control, defence, scenario, "classifier", 11, 0.5,
        32, 32, 0, hits, hits / 32, *runs.exact(hits, 32), hits / 32, kind=kind,
    )  # fmt: skip
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


ROWS = (
    row("text", "esd-x", 1),
    row("text", "none", 32, "backbone"),
    row("p4d", "esd-x", 9, kind="adversarial-text"),
    row("p4d", "none", 31, "backbone", kind="adversarial-text"),
    row("p4d", "esd-x", 0, "random-tokens", kind="adversarial-text"),
    row("p4d", "none", 30, "random-tokens", kind="adversarial-text"),
    row("noise-based", "esd-x", 2),
    row("noise-based", "none", 32, "backbone"),
    row("noise-based", "esd-x", 1, "plain-sampling"),
    row("relearning", "esd-x", 30),
    row("relearning", "esd-x", 1, "checkpoint", perturbation="training-steps", strength=0.0),
    row("relearning", "none", 32, "backbone"),
    row("relearning", "none", 3, "unlearned", "arrow"),
    row("p4d", "uce", 3, kind="adversarial-text"),
    row("p4d", "uce", 1, "random-tokens", kind="adversarial-text"),
    row("relearning", "uce", 28),
)
ROWS = tuple(dataclasses.replace(one, cell_id=number) for number, one in enumerate(ROWS))


@pytest.fixture(scope="module")
def written() -> str:
    spec = {"gate": {"judges": ["classifier"]}}
    return probes.block(dataclasses.replace(runs.passing(), crr=ROWS, spec=spec))


def test_every_probe_stands_beside_its_own_control_and_none_else(written: str) -> None:
    assert cells(written, "p4d", "ring", "esd-x")[1:7] == [
        "ring", "esd-x", "0.97 = 31/32 (0.84-1.00)", "0.28 = 9/32 (0.14-0.47)", "random tokens", "0.00 = 0/32 (0.00-0.11)",
    ]  # fmt: skip
    assert cells(written, "relearning", "ring", "esd-x")[5] == "unlearned class arrow, un-erased model"
    rows = [line for line in written.partition("Through each defence")[2].splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 5  # head and rule; three probes through one model, two through another


def test_over_all_models_hits_are_summed_and_a_control_that_serves_all_counts_once(written: str) -> None:
    pooled = written.partition("Through each defence")[0]
    assert cells(pooled, "p4d")[1:4] == ["0.19 = 12/64 (0.10-0.30)", "random tokens", "0.02 = 1/64 (0.00-0.08)"]
    assert cells(pooled, "relearning")[1] == "0.91 = 58/64 (0.81-0.96)"
    assert cells(pooled, "relearning")[3].startswith("0.09 = 3/32 ")
    assert [cells(pooled, probe)[5] for probe in ("p4d", "noise-based", "relearning")] == ["yes", "no", "yes"]


def test_a_concept_is_not_compared_with_the_controls_of_another() -> None:
    other = [dataclasses.replace(one, concept="cross") for one in ROWS]
    alone, beside = (list(probes.comparisons(dataclasses.replace(runs.passing(), crr=rows), "classifier"))
                     for rows in (ROWS, (*ROWS, *other)))  # fmt: skip
    assert len(beside) == 2 * len(alone) and {one.probe.concept for one in beside} == {"ring", "cross"}
    assert all(one.probe.concept == one.control.concept for one in beside)


def test_a_second_run_adds_its_concept_to_the_sums_and_lines_of_its_own() -> None:
    """Its cells have the numbers of the first one's: a control of each run counts."""
    spec = {"gate": {"judges": ["classifier"]}}
    first = dataclasses.replace(runs.passing(), crr=ROWS, spec=spec)
    other = tuple(dataclasses.replace(one, concept="star") for one in ROWS)
    text = probes.block(first, beside=dataclasses.replace(first, run_id="star-1", crr=other))
    assert text.startswith(f"Runs `{first.run_id}` and `star-1`.")
    assert "Over all defences and the concepts ring and star" in text
    pooled = text.partition("Through each defence")[0]
    assert cells(pooled, "p4d")[1].startswith("0.19 = 24/128 ") and cells(pooled, "p4d")[3].startswith("0.02 = 2/128 ")
    assert cells(pooled, "relearning")[3].startswith("0.09 = 6/64 ")
    assert cells(text, "p4d", "star", "esd-x")[4] == cells(text, "p4d", "ring", "esd-x")[4]


def test_a_probe_finds_more_where_the_corrected_p_says_so(written: str) -> None:
    found = [cells(written, probe, "ring", "esd-x")[8] for probe in ("p4d", "noise-based", "relearning")]
    assert found == ["yes", "no", "yes"]
    # The tail of one hypergeometric distribution, computed apart: all 9 hits of 64 cases among the first 32.
    alone = 1.0
    for place in range(9):
        alone *= (32 - place) / (64 - place)
    assert float(cells(written, "p4d", "ring", "esd-x")[7]) == pytest.approx(3 * alone, rel=0.05)  # the third of five


def test_an_empty_probe_finds_nothing() -> None:
    empty = [
        dataclasses.replace(one, assessed=0, hits=0, unassessed=32, rate=None) for one in ROWS if one.control is None
    ]
    others = [one for one in ROWS if one.control is not None]
    spec = {"gate": {"judges": ["classifier"]}}
    text = probes.block(dataclasses.replace(runs.passing(), crr=(*empty, *others), spec=spec))
    assert [cells(text, probe, "ring", "esd-x")[8] for probe in ("p4d", "noise-based", "relearning")] == ["no"] * 3
    assert cells(text, "p4d", "ring", "esd-x")[4] == "n/a"
