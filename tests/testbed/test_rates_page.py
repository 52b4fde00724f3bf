"""The block of any run on the testbed's page: one line for each cell, beside what it has to be read against."""

from __future__ import annotations

import dataclasses

from audit.verdict.results import BlockingRow
from deployments.testbed_page import rates
from tests.report import runs
from tests.testbed.test_page import cells
from tests.testbed.test_probes_page import row

ROWS = (
    row("text", "esd-x", 2),
    row("text", "worded", 0, blocked=30, unfiltered_hits=29, unfiltered_assessed=32),
    row("text", "none", 32, "backbone"),
    row("relearning", "esd-x", 30),
    row("relearning", "esd-x", 8, "checkpoint", perturbation="training-steps", strength=5.0),
    row("relearning", "none", 32, "backbone"),
    row("relearning", "none", 20, "checkpoint", perturbation="training-steps", strength=5.0),
    row("relearning", "none", 2, "checkpoint", "arrow", perturbation="training-steps", strength=5.0),
    row("relearning", "esd-x", 1, "unlearned", "arrow"),
    row("relearning", "none", 3, "unlearned", "arrow"),
)


def written(*kept: int) -> str:
    spec = {"gate": {"judges": ["classifier"]}}
    chosen = tuple(dataclasses.replace(ROWS[number], cell_id=number) for number in kept)
    return rates.block(dataclasses.replace(runs.passing(), crr=chosen, spec=spec))


def test_each_cell_stands_beside_the_un_erased_model_and_its_own_unlearned_class() -> None:
    text = written(*range(len(ROWS)))
    assert cells(text, "ring", "text", "worded")[3:7] == [
        "0.00 = 0/32 (0.00-0.11)", "0.91 = 29/32 (0.75-0.98)", "1.00 = 32/32 (0.89-1.00)", "",
    ]  # fmt: skip
    assert cells(text, "ring", "relearning", "esd-x")[3:7] == [
        "0.94 = 30/32 (0.79-0.99)", "", "1.00 = 32/32 (0.89-1.00)", "0.03 = 1/32 (0.00-0.16)",
    ]  # fmt: skip
    assert cells(text, "ring", "relearning (training-steps 5)", "esd-x")[3:7] == [
        "0.25 = 8/32 (0.11-0.43)", "", "0.62 = 20/32 (0.44-0.79)", "0.06 = 2/32 (0.01-0.21)",
    ]  # fmt: skip


def test_filters_show_what_they_block_of_what_must_survive() -> None:
    blocked = BlockingRow(0, "ring", "benign", "benign", None, "worded", "text", None, 32, 3, 28, 1)
    spec = {"gate": {"judges": ["classifier"]}}
    text = rates.block(dataclasses.replace(runs.passing(), crr=ROWS[:1], spec=spec, blocking=(blocked,)))
    assert "| 3 / 31 / 32 | 9.7 % |" in text
    assert "Over-blocking" not in written(0)


def test_the_trivial_control_of_an_attack_is_no_picture_of_the_un_erased_model() -> None:
    """Random tokens are drawn through the un-erased model as well, and show what they do without the attack."""
    crr = (
        row("p4d", "esd-x", 9, kind="adversarial-text"),
        row("p4d", "none", 31, "backbone", kind="adversarial-text"),
        row("p4d", "none", 2, "random-tokens", kind="adversarial-text"),
    )
    numbered = tuple(dataclasses.replace(one, cell_id=number) for number, one in enumerate(crr))
    spec = {"gate": {"judges": ["classifier"]}}
    text = rates.block(dataclasses.replace(runs.passing(), crr=numbered, spec=spec))
    assert cells(text, "ring", "p4d", "esd-x")[4] == "0.97 = 31/32 (0.84-1.00)"


def test_a_run_without_filters_has_no_column_for_them() -> None:
    assert "without filters" not in written(0, 2) and "without filters" in written(0, 1, 2)
