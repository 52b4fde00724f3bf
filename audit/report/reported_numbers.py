"""The numbers that M-ErasureBench reports, and the rule by which a run of ours reproduces one or does not.

A reported rate is *reproduced* when it lies in our two-sided interval widened by `TOLERANCE` on both sides: how many
pictures stand behind it, which judge read them and how concepts were averaged is not published, so its own error is not
known. "More than x" is reproduced when our widened upper bound is above x. A comparison is *not run* when this run has
no answer to it, or too weak a one: a smaller share of assessed cases than `assessed_floor`, an interval wider than
`WIDEST`, other concepts, or a setting that the paper does not publish. An error can only move a comparison to "not
run".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Literal

from audit.spec.base import Model
from audit.statistics import clopper_pearson
from audit.yaml_files import load_yaml

TOLERANCE = 0.05  # of a rate in 0..1: five percentage points
ASSESSED_MIN = 0.90  # share of the planned cases; a policy may ask for more, and never for less
WIDEST = 0.20  # a wider interval of ours would reproduce almost anything
FILE = Path(__file__).parent / "reported" / "m-erasurebench.yaml"


class ReportedRate(Model):
    """One reported concept reproduction rate in per cent."""

    eraser: Literal["none", "esd", "uce", "receler"]
    scenario: str
    percent: float
    form: Literal["exact", "about", "more-than"]
    guard: str | None = None
    differs: str | None = None

    @property
    def text(self) -> str:
        """Return the number as a reader should see it."""
        mark = {"exact": "", "about": "about ", "more-than": "more than "}[self.form]
        return f"{mark}{self.percent:g} %"


class ReportedReduction(Model):
    """The largest fall of a rate that a guard is reported to reach."""

    guard: str
    scenario: str
    percent: float
    form: Literal["up-to"]
    place: str
    differs: str


class Reported(Model):
    """The content of the data file."""

    paper: str
    source: str
    backbone: str
    concepts: tuple[str, ...]
    rates: tuple[ReportedRate, ...]
    reductions: tuple[ReportedReduction, ...]

    def rate(self, eraser: str, guard: str | None, scenario: str) -> ReportedRate | None:
        """Return the reported rate of an eraser with a guard (None: without) in a scenario; None when there is none."""
        return next((r for r in self.rates if (r.eraser, r.guard, r.scenario) == (eraser, guard, scenario)), None)


@functools.cache
def reported() -> Reported:
    """Return the numbers of the paper."""
    return Reported.model_validate(load_yaml(FILE.read_text(encoding="utf-8")))


class Answer(StrEnum):
    """The result of comparing our number with the reported one."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Our counts of one defence and scenario by one judge, summed over concepts."""

    hits: int
    assessed: int
    planned: int
    concepts: frozenset[str]

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided exact interval. Every case counts as one draw, whichever concept it is of."""
        return clopper_pearson(self.hits, self.assessed, confidence)


def assessed_floor(policy_min: float) -> float:
    """Return the share of planned cases, 0..1, that have to be assessed before a rate is compared, given a policy's own."""
    return max(ASSESSED_MIN, policy_min)


def compare(
    rate: ReportedRate, ours: Pooled | None, confidence: float, assessed_min: float, concepts: Collection[str]
) -> tuple[Answer, str]:
    """Return the answer and, where there is none, the reason. `concepts` are those that the paper averages over.

    `assessed_min` is the policy's floor. It cannot lower the one here, or a lax policy would compare the remains of a
    failed run.
    """
    why = _not_comparable(rate, ours, confidence, assessed_min, concepts)
    if why is not None or ours is None:
        return Answer.NOT_RUN, why or "this run has no such cell"
    low, high = ours.interval(confidence)
    value = rate.percent / 100
    if rate.form == "more-than":
        inside = high + TOLERANCE > value
    else:
        inside = low - TOLERANCE <= value <= high + TOLERANCE
    return (Answer.REPRODUCED if inside else Answer.NOT_REPRODUCED), ""


def _not_comparable(
    rate: ReportedRate, ours: Pooled | None, confidence: float, assessed_min: float, concepts: Collection[str]
) -> str | None:
    if ours is None or not ours.planned:
        return "this run has no such cell"
    if rate.differs is not None:
        return rate.differs
    lacking = len(set(concepts) - ours.concepts)
    if lacking:
        return f"{lacking} of the paper's {len(concepts)} concepts were not audited"
    floor = assessed_floor(assessed_min)
    if not ours.assessed or ours.assessed < floor * ours.planned:
        lost = f"{ours.planned - ours.assessed} of {ours.planned} cases are unassessed"
        return f"{lost}, and at least {100 * floor:g} % have to be assessed"
    low, high = ours.interval(confidence)
    if high - low > WIDEST:
        return f"too few cases: our interval is {100 * (high - low):.0f} points wide"
    return None
