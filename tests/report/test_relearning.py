"""The section on relearning, and its curves over training steps."""

from __future__ import annotations

import dataclasses

from audit.records import Control, Role
from audit.report import sections
from audit.report.curves import curves, relearning_curves
from audit.report.html import render
from audit.report.view import Index
from audit.verdict.results import RunResult
from tests.report.runs import CHECKS, Builder, _controls, picture

STEPS = (0, 10, 50)
HITS = {("uce-ring", "ring"): (1, 30, 46), ("none", "ring"): (44, 46, 47), ("none", "arrow"): (0, 2, 24)}


def run() -> RunResult:
    builder = Builder()
    _controls(builder)
    for (defence, subject), hits in HITS.items():
        last = {"none": Control.BACKBONE if subject == "ring" else Control.UNLEARNED}.get(defence)
        for step, count in zip(STEPS, hits, strict=True):
            end = step == STEPS[-1]
            control = last if end else Control.CHECKPOINT
            role = Role.TARGET if control is None else Role.CONTROL
            builder.cell(defence, "relearning", count, 48, 48, subject=subject, role=role, control=control)
            axis = None if end else "training-steps"
            builder.crr[-2:] = [
                dataclasses.replace(row, perturbation=axis, strength=float(step)) for row in builder.crr[-2:]
            ]
    return dataclasses.replace(builder.result(CHECKS), crr=tuple(builder.crr))


def test_the_table_has_every_checkpoint_of_the_three_curves_by_step() -> None:
    built = {section.key: section for section in sections.build(run())}
    (table,) = built["relearning"].tables
    assert len(table.rows) == 3 * 3 * 2
    lines = [row for row in table.rows if row[5] == table.rows[0][5]]
    assert {(row[0], row[1]) for row in lines} == {
        ("ring", "erased"),
        ("ring", "un-erased"),
        ("arrow", "never learned"),
    }
    assert [row[4] for row in lines] == ["0", "10", "50"] * 3
    erased = [row for row in lines if row[1] == "erased"]
    assert [row[-2] for row in erased] == ["2.1 %", "62.5 %", "95.8 %"]
    assert all("–" in row[-1] for row in erased)
    assert "latents" not in built or "Unlearned class" not in [label for label, _ in built["latents"].facts]


def test_the_curve_runs_from_the_first_checkpoint_to_the_last_and_the_page_shows_it() -> None:
    (plot,) = relearning_curves(Index(run()))
    assert "after training steps, relearning" in plot.caption
    assert "uce-ring: 2.1 %, 62.5 %, 95.8 %" in plot.wide and "none (un-erased), arrow: 0.0 %" in plot.wide
    assert ">50<" in plot.wide and ">none<" not in plot.wide
    assert curves(Index(run())) == ()
    page = render(run(), picture)
    assert page.index("after training steps, relearning") > page.index("Relearning")


def test_checkpoints_on_the_way_stay_out_of_rates_controls_and_decisions() -> None:
    result = run()
    on_the_way = {row.cell_id for row in result.crr if row.control == Control.CHECKPOINT}
    assert not on_the_way & {decision.cell_id for decision in result.verdict.decisions}
    built = {section.key: section for section in sections.build(result)}
    assert all("checkpoint" not in row for row in built["controls"].tables[0].rows)
    rates = [row for row in built["crr"].tables[0].rows if "relearning" in row]
    assert len(rates) == 2 * 2  # the defence's last checkpoint and the backbone's, by two detectors
