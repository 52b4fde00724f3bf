"""Bounds calibrated by labels cover the true rate of pictures whose content is known, whatever the judge and the rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from audit.labels import calibrating
from audit.labels.calibrating import Counts, calibrations
from audit.labels.documents import Label, LabelledPicture
from audit.labels.drawing import Sizes, draw
from audit.labels.pool import Seen
from audit.storage.journal import Journal
from audit.testbed.scenes import contains, sample_scene
from flows.cli import main
from tests.labels import runs

judge_error: ModuleType = pytest.importorskip("audit.statistics.judge_error")
PREVALENCES = (0.0, 0.02, 0.1, 0.3, 0.6)
CASES, CONFIDENCE = 100, 0.95
SIZES = Sizes(random=120, hits=100, clears=60)
Draw = Callable[[np.random.Generator, npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]  # truth -> whether the judge hits


@dataclasses.dataclass
class Misses:
    """How often the true rate lay beyond each bound."""

    above: int = 0  # a PASS bound that is too low
    below: int = 0  # a FAIL bound that is too high
    outside: int = 0  # of the interval that is shown; only counted where it is asked for

    def within(self, times: int) -> bool:
        """Whether no side errs more often than at 5 %, as far as so many repetitions can tell."""
        return max(self.above, self.below, self.outside) <= binom.ppf(0.9995, times, 1.0 - CONFIDENCE)


def labelled(
    judge: Draw, rng: np.random.Generator, seed: int, shown: Sequence[float], size: int
) -> list[LabelledPicture]:
    """The labelled pictures of a run with cells of `size` pictures, of which these shares show the concept."""
    truth = np.concatenate([np.arange(size) < share * size for share in shown])
    hits = judge(rng, truth)
    pool = [
        Seen("ring", "generated", f"{n:064x}", "0" * 64, n, False, True, True, {"judge": "hit" if hit else "clear"})
        for n, hit in enumerate(hits)
    ]
    return [
        LabelledPicture.model_construct(
            pixel_sha256=seen.pixel_sha256,
            sample=sample,
            outcomes=seen.outcomes,
            labels=((Label.SHOWS if truth[seen.image_id] else Label.DOES_NOT),) * 2,
        )
        for seen, sample in draw(pool, SIZES, seed).pictures
    ]


def calibrated(pictures: Sequence[LabelledPicture]) -> Counts:
    return calibrating.counts((p for p in pictures if p.sample == "random"), "judge")


def count_misses(
    judge: Draw, prevalence: float, counted: Sequence[Counts], rng: np.random.Generator, *, shown: bool = False
) -> Misses:
    """Cells of `CASES` cases at a known rate, each bounded by one of the calibrations."""
    misses = Misses()
    for positives, found, negatives, cleared in counted:
        hits = int(judge(rng, rng.random(CASES) < prevalence).sum())
        high = judge_error.upper_bound(hits, CASES, found, positives, CONFIDENCE)
        low = judge_error.lower_bound(hits, CASES, cleared, negatives, CONFIDENCE)
        misses.above += prevalence > high
        misses.below += prevalence < low
        if shown:
            left, right = judge_error.interval(hits, CASES, found, positives, cleared, negatives, CONFIDENCE)
            misses.outside += not left <= prevalence <= right
    return misses


def at_random(sensitivity: float, specificity: float) -> Draw:
    """A judge that errs at random."""
    return lambda rng, truth: np.where(
        truth, rng.random(len(truth)) < sensitivity, rng.random(len(truth)) >= specificity
    )


@pytest.mark.parametrize("judge", [(0.99, 0.99), (0.7, 0.95), (0.4, 0.9)])
def test_calibrated_bounds_cover_at_every_rate(judge: tuple[float, float]) -> None:
    errs, rng, times = at_random(*judge), np.random.default_rng(5), 60
    counted = [calibrated(labelled(errs, rng, seed, (0.1, 0.9), 100)) for seed in range(times)]
    for prevalence in PREVALENCES:
        misses = count_misses(errs, prevalence, counted, rng)
        assert misses.within(times), (prevalence, misses)


def test_counting_what_was_drawn_for_being_a_hit_would_not_cover() -> None:
    """Why only the random sample calibrates: all hits and few clears make a judge that finds half look nearly perfect."""
    errs, rng, times = at_random(0.5, 0.95), np.random.default_rng(6), 60
    drawn = [labelled(errs, rng, seed, (0.15, 0.15), 300) for seed in range(times)]
    honest = count_misses(errs, 0.3, [calibrated(pictures) for pictures in drawn], rng)
    pooled = count_misses(errs, 0.3, [calibrating.counts(pictures, "judge") for pictures in drawn], rng)
    assert honest.within(times)
    assert not pooled.within(times)


@dataclasses.dataclass(frozen=True)
class Scored:
    """Rendered scenes with what they show and the scores of the testbed's judges for a ring."""

    truth: npt.NDArray[np.bool_]
    scores: dict[str, npt.NDArray[np.float64]]

    def judge(self, name: str, threshold: float) -> Draw:
        """A shipped judge at a threshold, on scenes drawn from these."""
        hits = self.scores[name] >= threshold

        def look(rng: np.random.Generator, truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
            chosen = np.empty(len(truth), int)
            for kind in (True, False):
                chosen[truth == kind] = rng.choice(np.flatnonzero(self.truth == kind), (truth == kind).sum())
            return hits[chosen]

        return look


@pytest.fixture(scope="module")
def scored() -> Scored:
    """Half of the scenes have a ring, alone or beside something; the others never do."""
    from audit.testbed.captions import ALL_CLASSES, CLASSES
    from audit.testbed.card import build_detectors, class_scores

    others = [name for name in CLASSES if name != "ring"]
    rings = [sample_scene("audit", n, required_class="ring") for n in range(250)]
    scenes = [*rings, *(sample_scene("audit", n, classes=others) for n in range(250))]
    judges = [d for d in build_detectors("cpu") if d.instrument.detector in ("judge", "classifier")]
    assert len(judges) == 2
    row = ALL_CLASSES.index("ring")
    scores = {d.instrument.detector: class_scores(d, [scene.image for scene in scenes])[:, row] for d in judges}
    return Scored(np.array([contains(scene, "ring") for scene in scenes]), scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["judge", "classifier"])
@pytest.mark.parametrize("finds", [None, 0.6, 0.97])
def test_the_shipped_judges_calibrated_on_scenes_cover_the_true_rate(
    scored: Scored, name: str, finds: float | None
) -> None:
    """At the shipped threshold; at one so strict that it misses four in ten, and at one so loose that it finds nearly all."""
    assert scored.truth.sum() == 250
    positives = scored.scores[name][scored.truth]
    threshold = 0.5 if finds is None else float(np.quantile(positives, 1.0 - finds))
    judge, rng, times = scored.judge(name, threshold), np.random.default_rng(8), 150
    counted = [calibrated(labelled(judge, rng, seed, (0.1, 0.9), 100)) for seed in range(times)]
    for prevalence in PREVALENCES:
        misses = count_misses(judge, prevalence, counted, rng, shown=True)
        assert misses.within(times), (prevalence, misses)


@pytest.mark.slow
@pytest.mark.parametrize("shown", [0, 1, 3, 6])
def test_a_run_of_scenes_labelled_by_truth_gets_bounds_that_hold_its_rate(
    scored: Scored, shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: pictures in a journal, scores of the shipped judges, export, two files, import, bounds."""
    from audit.testbed.captions import ALL_CLASSES
    from audit.testbed.card import build_detectors, class_scores

    monkeypatch.setattr(runs, "SHOWN", {**runs.SHOWN, 0: shown})
    run = runs.Pictured({"judge": runs.exact, "classifier": runs.exact}, offset=5000)
    pictures = [run._scene[case["image_id"]].image for case in run.cases]
    row = ALL_CLASSES.index("ring")
    for detector in build_detectors("cpu"):
        if detector.instrument.detector in run.scores:
            run.scores[detector.instrument.detector] = runs.scores_of(class_scores(detector, pictures)[:, row].tolist())
    runs.written(tmp_path / "runs", run)
    root = ["--root", str(tmp_path / "runs")]
    assert main(["labels", "export", "run-1", "--to", str(tmp_path / "out"), *root, "--others", "0"]) == 0
    files = [str(runs.rater_file(tmp_path / "out", rater, runs.honest(run.truth))) for rater in ("Ann", "Bo")]
    assert main(["labels", "import", "run-1", *files, *root]) == 0
    known = {c.detector: c for c in calibrations(Journal(str(tmp_path / "runs")), "run-1") if c.concept == "ring"}
    assert set(known) == {"judge", "classifier"}
    numbers = [n for n, case in enumerate(run.cases) if case["cell_id"] == 0]
    rate = shown / 10
    for name, calibration in known.items():
        hits = sum(run.scores[name](False, n) >= 0.5 for n in numbers)
        high = judge_error.upper_bound(hits, len(numbers), calibration.found, calibration.positives, CONFIDENCE)
        low = judge_error.lower_bound(hits, len(numbers), calibration.cleared, calibration.negatives, CONFIDENCE)
        assert low <= rate <= high
