"""`python -m audit.testbed.guards_calibration`: prints what the options of `guards_table` were chosen from.

Everything here is of the calibration split: the threshold at which a judge tells present from absent classes in
two-object scenes, IRECE's score with and without the concept (for its gate), and the cells of candidate guards on the
backbone. Nothing is written into the README, and no scene of the audit split is rendered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from audit.diffusion.pipeline import load_pipeline
from audit.errors import SpecError
from audit.instruments.detectors.base import Detector
from audit.spec.sections import Guard
from audit.testbed.captions import ALL_CLASSES
from audit.testbed.counting import class_scores
from audit.testbed.erased import ERASED
from audit.testbed.guard_cells import SCENARIOS, Bench, cases_of, generate
from audit.testbed.guard_defences import SPECIFIC, Defence, describe, guard
from audit.testbed.guards_table import Cells, judges_on, table
from audit.weights.references import resolve_model

SPLIT = "calibration"
Scores = npt.NDArray[np.float64]


def threshold(judge: Detector, count: int) -> tuple[float, float]:
    """The score that separates present from absent classes best on `count` two-object scenes, and how well it does.

    How well is the balanced accuracy: the mean of the shares of present and of absent classes on their side. The score is
    the lowest of the best among 0.05, 0.10, ..., 0.95.
    """
    cases = cases_of("ring", count, split=SPLIT)
    scores = class_scores(judge, [case.scene.image for case in cases])
    present = np.array([[name in (case.wanted, case.other) for name in ALL_CLASSES] for case in cases])
    grid = np.arange(1, 20) / 20
    balanced = [((scores[present] >= at).mean() + (scores[~present] < at).mean()) / 2 for at in grid]
    best = int(np.argmax(balanced))
    return float(grid[best]), float(balanced[best])


def gate_scores(bench: Bench, irece: Guard, count: int) -> tuple[Scores, Scores]:
    """What a gate would compare: IRECE's score in `count` scenes with the concept, and in as many without it.

    The scenes start from white-box null-prompt latents of the backbone.
    """
    row = Defence(describe(irece), None, (irece,))
    found = []
    for name, benign in (("target", False), ("benign", True)):
        cases = cases_of(bench.concept, count, benign=benign, split=SPLIT)
        reports = generate(bench, row, "latent-whitebox", cases, name).reports
        found.append(np.array([report[0].measures["score"] for report in reports]))
    return found[0], found[1]


def separation(with_concept: Scores, without: Scores) -> str:
    """One line: the scores' ranges, and the area under the ROC curve between them."""
    higher = (with_concept[:, None] > without[None]).mean() + (with_concept[:, None] == without[None]).mean() / 2
    ranges = [f"{np.quantile(some, 0.1):.3f} to {np.quantile(some, 0.9):.3f}" for some in (with_concept, without)]
    return f"score with the concept {ranges[0]}, without it {ranges[1]} (10 % to 90 %), AUC {higher:.2f}"


def candidate(text: str) -> Guard:
    """A guard as NAME or NAME {JSON}, as the table prints it. Raises `SpecError`."""
    name, _, parameters = text.partition(" ")
    try:
        return guard(name, **json.loads(parameters or "{}"))
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"a candidate cannot be read: {error}", where=text, next_step="write it as NAME or as NAME {JSON object}"
        ) from error


def page(bench: Bench, candidates: Sequence[Guard], scenarios: Sequence[str], cells: Cells) -> str:
    """Thresholds, gate scores and the candidates' cells, the unguarded backbone's first."""
    lines = [f"Concept {bench.concept}, {cells.count} two-object scenes of the {SPLIT} split.", ""]
    for judge in bench.judges:
        at, balanced = threshold(judge, cells.count)
        lines.append(f"{judge.instrument.detector}: threshold {at:.2f}, balanced accuracy {balanced:.3f}")
    for one in candidates:
        if one.name == "irece" and "gate" not in one.parameters:
            lines.append(f"{describe(one)}: {separation(*gate_scores(bench, one, cells.count))}")
    rows = [Defence("none", None, ()), *(Defence(describe(one), None, (one,)) for one in candidates)]
    measured = [(row, scenario, cells.cell(row, scenario)) for row in rows for scenario in scenarios]
    return "\n".join([*lines, "", table(measured)])


def main() -> None:
    """Measure the candidates and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "candidates", nargs="*", help="guards, each as NAME or 'NAME {JSON}'; those of the table without"
    )
    parser.add_argument("--cases", type=int, default=40, help="scenes a cell")
    parser.add_argument("--concept", default="ring")
    parser.add_argument("--scenarios", nargs="*", default=["latent-whitebox"], choices=SCENARIOS)
    parser.add_argument("--build", type=Path, default=Path("build/testbed"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(resolve_model("testbed"), torch.device(device))
    bench = Bench(pipeline, judges_on(device), ERASED, arguments.build, arguments.concept, split=SPLIT)
    chosen = [guard("irece"), guard("irece", noise="level", **SPECIFIC)]
    cells = Cells(bench, arguments.cases, arguments.cases, arguments.build / "guards-calibration")
    print(page(bench, [candidate(text) for text in arguments.candidates] or chosen, arguments.scenarios, cells))


if __name__ == "__main__":
    main()
