"""The section on inverted latents, and the curves over perturbations."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from audit.records import Control, Role
from audit.report import json_report, sections
from audit.report.curves import curves
from audit.report.html import render
from audit.report.likelihoods import groups, likelihoods
from audit.report.view import Index, Section
from audit.verdict.results import LatentRow, RunResult
from tests.report.runs import CHECKS, Builder, _controls, picture

SIGMAS = (0.05, 0.1, 0.2)


def run() -> RunResult:
    builder = Builder()
    target = builder.cell("uce-ring", "latent-whitebox", 45, 48, 48)
    _controls(builder)
    latent = {row.subject: row.cell_id for row in builder.crr if row.scenario == "latent-whitebox"}
    for step, sigma in enumerate(SIGMAS, start=1):
        for defence, subject, hits in (("none", "ring", 44), ("uce-ring", "ring", 40), ("uce-ring", "cross", 20)):
            cell = builder.cell(
                defence, "latent-whitebox", hits // step, 48, 48, subject=subject, role=Role.CONTROL,
                control=Control.PERTURBED,
            )  # fmt: skip
            builder.crr[-2:] = [
                dataclasses.replace(row, perturbation="latent-noise", strength=sigma) for row in builder.crr[-2:]
            ]
            assert builder.crr[-1].cell_id == cell
    latents = (
        LatentRow(target, 48, 1.31, 1.345, 1.4, 0.93, 0.07),
        LatentRow(latent["cross"], 16, 1.2, 1.25, 1.29, 0.81, 0.31),
    )
    return dataclasses.replace(builder.result(CHECKS), crr=tuple(builder.crr), latents=latents)


def section(result: RunResult) -> Section | None:
    return next((s for s in sections.build(result) if s.key == "latents"), None)


def test_the_section_says_what_each_reading_can_and_cannot_show() -> None:
    found = section(run())
    assert found is not None
    assert "nearly an identity for any image" in found.sentences[0]
    assert [label for label, _ in found.facts] == ["Unlearned class", "Likelihood of the latents", "Perturbed latents"]
    assert all("annot" in text or "never enter a decision" in text for _, text in found.facts)


def test_the_tables_set_the_concept_beside_the_class_that_was_never_learned() -> None:
    found = section(run())
    assert found is not None
    likelihood, perturbed = found.tables
    assert [row[:2] + row[5:6] for row in likelihood.rows] == [
        ("ring", "the concept", "1.345"),
        ("cross", "never learned", "1.250"),
    ]
    assert len(perturbed.rows) == 3 * 3 * 2
    first = next(row for row in perturbed.rows if row[1] == "uce-ring" and row[0] == "ring")
    assert first[3] == "latent-noise 0.05"
    assert first[-1] == "93.8 %"  # 45 of 48 in the default row


def test_the_likelihood_is_drawn_by_group_beside_that_of_noise() -> None:
    (plot,) = likelihoods(Index(run()))
    for drawing in (plot.wide, plot.narrow):
        for words in (
            "noise 1.419",
            "latent-whitebox, uce-ring, ring (the concept): 1.345 (1.310 to 1.400)",
            "latent-whitebox, uce-ring, cross (never learned): 1.250 (1.200 to 1.290)",
            "nats per dimension",
        ):
            assert words in drawing
    concept, other = (float(x) for x in re.findall(r'transform="translate\(([\d.]+) ', plot.wide))
    noise = float(re.findall(r'points="([\d.]+),[^>]*stroke-dasharray="5', plot.wide)[0])
    assert (concept - other) / (noise - concept) == pytest.approx((1.345 - 1.25) / (1.418939 - 1.345), rel=1e-3)
    page = render(run(), picture)
    at = [
        page.index(text)
        for text in ("Negative log-likelihood of inverted latents under", "in nats per dimension</span>")
    ]
    assert at == sorted(at)
    assert "cannot show whether they have structure that noise lacks" in page
    assert likelihoods(Index(run())) == likelihoods(Index(run()))


def test_black_box_latents_are_drawn_once_and_what_is_not_finite_is_left_to_the_table() -> None:
    result = run()
    odd = dataclasses.replace(result.latents[0], nll_high=math.inf)
    (plot,) = likelihoods(Index(dataclasses.replace(result, latents=(odd, result.latents[1]))))
    assert "the concept)" not in plot.wide and "never learned" in plot.wide
    assert likelihoods(Index(dataclasses.replace(result, latents=(odd,)))) == ()
    crr = tuple(dataclasses.replace(r, kind="latent-blackbox") for r in result.crr)
    assert likelihoods(Index(dataclasses.replace(result, crr=crr))) == ()


def test_a_guarded_model_is_inverted_without_its_guards_and_stands_there_once() -> None:
    builder = Builder()
    cells = [builder.cell(name, "latent-whitebox", 4, 8, 8) for name in ("uce-ring", "uce-ring-irece", "esd-ring")]
    values = ((1.31, 1.345, 1.4), (1.31, 1.345, 1.4), (1.31, 1.346, 1.4))
    latents = tuple(LatentRow(cell, 48, *nll, 0.93, 0.07) for cell, nll in zip(cells, values, strict=True))
    result = dataclasses.replace(builder.result(CHECKS), crr=tuple(builder.crr), latents=latents)
    assert [group.cell.defence for group in groups(Index(result))] == ["uce-ring", "esd-ring"]


def test_perturbed_cells_stay_out_of_rates_controls_and_decisions() -> None:
    result = run()
    perturbed = {row.cell_id for row in result.crr if row.perturbation}
    assert not perturbed & {decision.cell_id for decision in result.verdict.decisions}
    built = {s.key: s for s in sections.build(result)}
    assert len(built["crr"].tables[0].rows) == 2 * 3  # target and the backbone's two scenarios, by two detectors
    assert all("perturbed" not in row for row in built["controls"].tables[0].rows)


def test_the_curve_goes_from_the_undisturbed_row_to_the_strongest_noise() -> None:
    (plot,) = curves(Index(run()))
    assert [label for _, label in plot.marks] == ["uce-ring", "none (un-erased)", "uce-ring, cross"]
    assert "uce-ring: 93.8 %, 83.3 %, 41.7 %, 27.1 %" in plot.wide
    page = render(run(), picture)
    assert page.count('class="plot"') == 3  # rates, likelihood, curve
    assert "against the strength of latent-noise, latent-whitebox" in page


def test_points_without_a_rate_are_left_out_of_the_curve() -> None:
    result = run()
    blind = [dataclasses.replace(r, assessed=0, hits=0, unassessed=48, rate=None) for r in result.crr]
    (plot,) = curves(Index(dataclasses.replace(result, crr=tuple(blind))))
    assert "n/a" in plot.wide


def test_a_run_without_latents_has_no_such_section() -> None:
    builder = Builder()
    builder.cell("uce-ring", "text", 1, 96, 96)
    result = builder.result(CHECKS)
    assert section(result) is None
    assert curves(Index(result)) == ()


def test_the_rows_survive_json() -> None:
    result = run()
    odd = dataclasses.replace(result.latents[0], autocorr_median=math.inf)
    again = json_report.parse(json_report.render(dataclasses.replace(result, latents=(odd, result.latents[1]))))
    assert again.latents == (odd, result.latents[1])
    assert again.crr == result.crr
