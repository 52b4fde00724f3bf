"""The bounds that a policy decides by: exact, wider by a judge's own errors, or holding at any time.

| bound | where | rate's bounds |
|---|---|---|
| raw | nothing else is asked for, or there are no labels | Clopper-Pearson |
| no-credit | labels say how often the judge errs | `audit.statistics.judge_error` |
| anytime | the policy lets cases be added | the e-process of `audit.statistics.anytime` |
| anytime-no-credit | both | the e-process's bound over the judge's, half of the error each |
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from audit import statistics
from audit.spec.policy import Policy
from audit.statistics import anytime, binomial, judge_error
from audit.verdict.calibration import Calibration


class Kind(StrEnum):
    """How a bound was computed."""

    RAW = "raw"
    NO_CREDIT = "no-credit"
    ANYTIME = "anytime"
    ANYTIME_NO_CREDIT = "anytime-no-credit"


def alpha(policy: Policy, attempt: int) -> float:
    """Return the one-sided error of attempt `attempt`, from 1, at the same claim."""
    share = {"count": 1.0, "divide": 1.0 / attempt, "spend": 2.0**-attempt}[policy.attempts]
    return max((1.0 - policy.confidence) * share, 1e-15)


def best_of(policy: Policy, attempt: int) -> float:
    """Return the largest error of the best of `attempt` attempts, each at its own `alpha`; at most 1."""
    return min(1.0, sum(alpha(policy, k) for k in range(1, min(attempt, 100_000) + 1)))


@dataclasses.dataclass(frozen=True)
class Bounds:
    """One-sided bounds of a cell's rate at error `alpha`. `labels` correct the judge's errors; None where they are raw."""

    alpha: float
    anytime: bool = False
    labels: Calibration | None = None

    @property
    def kind(self) -> Kind:
        """Return how these bounds are computed."""
        if self.labels is None:
            return Kind.ANYTIME if self.anytime else Kind.RAW
        return Kind.ANYTIME_NO_CREDIT if self.anytime else Kind.NO_CREDIT

    def high(self, hits: int, n: int) -> float:
        """Return the upper bound of the rate; no hit is taken for a false alarm."""
        confidence = 1.0 - self.alpha
        if self.labels is None:
            return (anytime if self.anytime else statistics).upper_bound(hits, n, confidence)
        found, positives = self.labels.found, self.labels.positives
        if not self.anytime:
            return judge_error.upper_bound(hits, n, found, positives, confidence)
        half = 1.0 - self.alpha / 2.0
        sensitivity = statistics.lower_bound(found, positives, half)
        return min(1.0, anytime.upper_bound(hits, n, half) / sensitivity) if sensitivity > 0.0 else 1.0

    def low(self, hits: int, n: int) -> float:
        """Return the lower bound of the rate; no clear case is taken for a miss."""
        confidence = 1.0 - self.alpha
        if self.labels is None:
            return (anytime if self.anytime else statistics).lower_bound(hits, n, confidence)
        if not self.anytime:
            return judge_error.lower_bound(hits, n, self.labels.cleared, self.labels.negatives, confidence)
        return self._low_at_any_time(hits, n, self.alpha)

    def within(self, hits: int, n: int, limit: float) -> bool:
        """Return whether `high` is at most `limit`, without searching for it where that can be avoided."""
        if self.labels is None or self.anytime:
            return self.high(hits, n) <= limit
        return judge_error.p_below(hits, n, self.labels.found, self.labels.positives, limit) <= self.alpha

    def above(self, hits: int, n: int, limit: float, error: float) -> bool:
        """Return whether the lower bound at `error` is above `limit`."""
        if self.labels is not None and self.anytime:
            return self._low_at_any_time(hits, n, error) > limit
        return self.p_above(hits, n, limit) < error

    def p_above(self, hits: int, n: int, limit: float) -> float:
        """Return the p-value of "the rate is at most `limit`": the least error at which `low` is above it."""
        if self.labels is None:
            return (anytime if self.anytime else binomial).p_above(hits, n, limit)
        if not self.anytime:
            return judge_error.p_above(hits, n, self.labels.cleared, self.labels.negatives, limit)
        return binomial.least_error(lambda error: self._low_at_any_time(hits, n, error) > limit)

    def melded(self, hits: int, n: int) -> tuple[float, float] | None:
        """Return the two-sided interval that takes the judge's errors out, for display; None without labels."""
        c = self.labels
        if c is None:
            return None
        return judge_error.interval(hits, n, c.found, c.positives, c.cleared, c.negatives, 1.0 - self.alpha)

    def _low_at_any_time(self, hits: int, n: int, error: float) -> float:
        assert self.labels is not None
        specificity = statistics.lower_bound(self.labels.cleared, self.labels.negatives, 1.0 - error / 2.0)
        if specificity == 0.0:
            return 0.0
        return max(0.0, 1.0 - (1.0 - anytime.lower_bound(hits, n, 1.0 - error / 2.0)) / specificity)
