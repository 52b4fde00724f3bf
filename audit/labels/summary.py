"""The summary of an import: agreement of the raters, errors of each judge, and how many of its hits and clears are real."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from audit.errors import LabelsError
from audit.labels.calibrating import counts, random_sample
from audit.labels.documents import DOMAINS, Judge, Label, LabelledPicture, StoredLabels
from audit.labels.drawing import LEAST
from audit.statistics import clopper_pearson
from audit.statistics.agreement import Agreement, agreement

CONFIDENCE = 0.95  # of the intervals that are printed; the gate makes its own bounds from the counts


@dataclasses.dataclass(frozen=True)
class JudgeErrors:
    """One judge's errors on the random sample of one concept and domain.

    `defended` are (found, positives) on pictures of defended models alone, where the judge decides.
    """

    detector: str
    concept: str
    domain: str
    positives: int
    found: int
    negatives: int
    cleared: int
    defended: tuple[int, int]

    @property
    def enough(self) -> bool:
        """Whether the gate uses it at all."""
        return min(self.positives, self.negatives) >= LEAST

    def sensitivity(self) -> tuple[float, float]:
        """Return the two-sided exact interval of the share of positives that the judge finds."""
        return clopper_pearson(self.found, self.positives, CONFIDENCE)

    def specificity(self) -> tuple[float, float]:
        """Return the two-sided exact interval of the share of negatives that it clears."""
        return clopper_pearson(self.cleared, self.negatives, CONFIDENCE)


@dataclasses.dataclass(frozen=True)
class Review:
    """What the answers of all judges together are worth: `hits` are labelled pictures in which any of them found the concept,
    `clears` those in which none did, both random within their kind."""

    concept: str
    hits: int
    real: int  # both raters say that they show it
    clears: int
    missed: int  # not both raters say that they do not


def agreements(labels: StoredLabels) -> dict[str, Agreement]:
    """Return how far the raters agree on the random samples, by concept."""
    by_concept = {}
    for concept in sorted({judge.concept for judge in labels.judges}):
        pairs = [p.labels for p in labels.pictures if p.concept == concept and p.sample == "random"]
        by_concept[concept] = agreement([a for a, _ in pairs], [b for _, b in pairs], list(Label), CONFIDENCE)
    return by_concept


def judge_errors(labels: StoredLabels) -> list[JudgeErrors]:
    """Return the errors of every judge, for each concept and domain of which it has read labelled pictures."""
    return [
        _errors(labels, judge, domain)
        for judge in labels.judges
        for domain in DOMAINS
        if random_sample(labels, judge, domain)
    ]


def require_enough(labels: StoredLabels) -> None:
    """Return when at least one judge can be calibrated; raises `LabelsError` that says what was counted otherwise."""
    errors = [row for row in judge_errors(labels) if row.domain == "generated"]
    if any(row.enough for row in errors):
        return
    listed = "; ".join(
        f"{row.detector} on {row.concept!r}: {row.positives} that show it and {row.negatives} that do not"
        for row in errors
    )
    raise LabelsError(
        f"too few pictures were labelled to calibrate a judge ({LEAST} that show the concept and {LEAST} that do not are "
        f"needed): {listed or 'none'}",
        where=f"run {labels.run_id}",
        next_step=f"export more of them: erasure-audit labels export {labels.run_id} --random N",
    )


def reviews(labels: StoredLabels) -> list[Review]:
    """Return the review of each concept of which more than the random sample was drawn."""
    listed = []
    for concept in sorted({s.concept for s in labels.strata if s.sample != "random"}):
        known = [p for p in labels.pictures if (p.concept, p.domain) == (concept, "generated")]
        hits = [p for p in known if "hit" in p.outcomes.values()]
        clears = [p for p in known if "hit" not in p.outcomes.values()]
        real, absent = _all(hits, Label.SHOWS), _all(clears, Label.DOES_NOT)
        listed.append(Review(concept, len(hits), real, len(clears), len(clears) - absent))
    return listed


def _errors(labels: StoredLabels, judge: Judge, domain: str) -> JudgeErrors:
    sample = random_sample(labels, judge, domain)
    positives, hits, negatives, cleared = counts(sample, judge.detector)
    at_defence = counts((p for p in sample if p.defended), judge.detector)
    return JudgeErrors(
        detector=judge.detector,
        concept=judge.concept,
        domain=domain,
        positives=positives,
        found=hits,
        negatives=negatives,
        cleared=cleared,
        defended=(at_defence[1], at_defence[0]),
    )


def _all(pictures: Iterable[LabelledPicture], label: Label) -> int:
    """Return on how many pictures both raters say `label`."""
    return sum(set(picture.labels) == {label} for picture in pictures)
