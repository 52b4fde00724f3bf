"""`python -m tests.bench.statistics_table`: how often each bound and test of the gate errs, into docs/statistics.md.

Everything is summed over all outcomes, so nothing here is random: a row's number is the largest error over its grid, to
rounding. Ends with status 1 when one that has to stay within 5 % does not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binom

from audit import statistics
from audit.spec.policy import Limit, Policy
from audit.statistics import anytime, binomial, judge_error, paired
from audit.verdict import bounds

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- table: make statistics -->", "<!-- end of table -->"
ERROR = 0.05
RATES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5)
CASES = (20, 60, 150, 300, 1000)
LABELS = (12, 50, 200)
SENSITIVITIES = (1.0, 0.99, 0.9, 0.7, 0.4)
SPECIFICITIES = (1.0, 0.999, 0.99, 0.95, 0.9)
LIMITS = (0.05, 0.1, 0.3)
FAMILIES = (1, 30, 60)
LOOKS = 2000


@dataclasses.dataclass(frozen=True)
class Row:
    """The largest error of one claim. `most` is what it may be; None where the row shows what would go wrong."""

    what: str
    claim: str
    over: str
    error: float
    most: float | None = ERROR

    @property
    def holds(self) -> bool:
        """Whether the error is within what it may be."""
        return self.most is None or self.error <= self.most + 1e-9


def least(holds: Callable[[int], bool], n: int, start: int = 0) -> int:
    """Return the least count from `start` to `n` at which a condition holds that then goes on to hold; n + 1 for none."""
    low, high = start, n + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def exact_bounds(cases: Sequence[int] = CASES) -> Iterator[Row]:
    """Clopper-Pearson, where the judge errs in nothing."""
    missed = {"PASS": 0.0, "FAIL": 0.0}
    for n, rate in itertools.product(cases, RATES):
        hits = np.arange(n + 1)
        weight = binom.pmf(hits, n, rate)
        high = np.array([statistics.upper_bound(int(h), n, 1 - ERROR) for h in hits])
        low = np.array([statistics.lower_bound(int(h), n, 1 - ERROR) for h in hits])
        missed["PASS"] = max(missed["PASS"], float(weight[high < rate].sum()))
        missed["FAIL"] = max(missed["FAIL"], float(weight[low > rate].sum()))
    grid = f"n {cases[0]} to {cases[-1]}, rates {RATES[0]:g} to {RATES[-1]:g}"
    for side, error in missed.items():
        yield Row("raw bounds", f"{side} side misses the rate", grid, error)


def judged_bounds(cases: Sequence[int] = CASES, labels: Sequence[int] = LABELS) -> Iterator[Row]:
    """No-credit bounds over all outcomes of cases and labels; beside them what raw bounds would do."""
    missed = dict.fromkeys(("PASS", "FAIL", "raw PASS", "raw FAIL"), 0.0)
    for n, rate in itertools.product(cases, RATES):
        raw_pass = least(lambda h, n=n, r=rate: statistics.upper_bound(h, n, 1 - ERROR) >= r, n)  # type: ignore[misc]
        raw_fail = least(lambda h, n=n, r=rate: statistics.lower_bound(h, n, 1 - ERROR) > r, n)  # type: ignore[misc]
        for labelled in labels:
            low, high = _covering(n, rate, labelled), _exceeding(n, rate, labelled, ERROR)
            right = np.arange(labelled + 1)
            for se, sp in itertools.product(SENSITIVITIES, SPECIFICITIES):
                seen = rate * se + (1 - rate) * (1 - sp)
                told = binom.cdf(low - 1, n, seen) @ binom.pmf(right, labelled, se)
                false = binom.sf(high - 1, n, seen) @ binom.pmf(right, labelled, sp)
                missed["PASS"] = max(missed["PASS"], float(told))
                missed["FAIL"] = max(missed["FAIL"], float(false))
                missed["raw PASS"] = max(missed["raw PASS"], float(binom.cdf(raw_pass - 1, n, seen)))
                missed["raw FAIL"] = max(missed["raw FAIL"], float(binom.sf(raw_fail - 1, n, seen)))
    grid = f"the same, {labels[0]} to {labels[-1]} labels of each kind, Se 0.4 to 1, Sp 0.9 to 1"
    for side in ("PASS", "FAIL"):
        yield Row("no-credit bounds", f"{side} side misses the rate", grid, missed[side])
        yield Row("raw bounds, a judge that errs", f"{side} side misses the rate", grid, missed[f"raw {side}"], None)


def _covering(n: int, rate: float, labelled: int) -> np.ndarray:
    """For each number of found positives: the least hits whose upper bound is not below `rate`."""
    counts: list[int] = []
    for found in range(labelled + 1):
        start = counts[-1] if counts else 0
        counts.append(least(lambda h, s=found: judge_error.p_below(h, n, s, labelled, rate) >= ERROR, n, start))  # type: ignore[misc]
    return np.array(counts)


def _exceeding(n: int, rate: float, labelled: int, error: float) -> np.ndarray:
    """For each number of cleared negatives: the least hits whose lower bound is above `rate`."""
    if rate == 0.0:
        return np.array(
            [
                least(lambda h, t=t: judge_error.lower_bound(h, n, t, labelled, 1 - error) > 0.0, n)  # type: ignore[misc]
                for t in range(labelled + 1)
            ]
        )
    return np.array(
        [
            least(lambda h, t=t: judge_error.p_above(h, n, t, labelled, rate) < error, n)  # type: ignore[misc]
            for t in range(labelled + 1)
        ]
    )


def families(sizes: Sequence[int] = FAMILIES) -> Iterator[Row]:
    """Some cell of a run fails though every rate is at its limit: with Holm's rule, and without."""
    for size in sizes:
        errors = dict.fromkeys(("raw", "no-credit", "uncorrected"), 0.0)
        for n, limit in itertools.product((60, 150, 300), LIMITS):
            fails = least(lambda h, n=n, p=limit, e=ERROR / size: binomial.p_above(h, n, p) < e, n)  # type: ignore[misc]
            alone = least(lambda h, n=n, p=limit: binomial.p_above(h, n, p) < ERROR, n)  # type: ignore[misc]
            errors["raw"] = max(errors["raw"], _some(float(binom.sf(fails - 1, n, limit)), size))
            errors["uncorrected"] = max(errors["uncorrected"], _some(float(binom.sf(alone - 1, n, limit)), size))
            for specificity in SPECIFICITIES:  # all cells share the judge's labels
                high = _exceeding(n, limit, 50, ERROR / size)
                one = binom.sf(high - 1, n, limit + (1 - limit) * (1 - specificity))
                shared = binom.pmf(np.arange(51), 50, specificity)
                errors["no-credit"] = max(errors["no-credit"], float(shared @ np.array([_some(p, size) for p in one])))
        over = f"{size} cell{'s' * (size > 1)} at the limit, n 60 to 300, limits {LIMITS[0]:g} to {LIMITS[-1]:g}"
        yield Row("Holm's rule, raw bounds", "some cell FAILs by mistake", over, errors["raw"])
        yield Row(
            "Holm's rule, no-credit bounds", "some cell FAILs by mistake", f"{over}, 50 labels", errors["no-credit"]
        )
        if size > 1:
            yield Row("no correction", "some cell FAILs by mistake", over, errors["uncorrected"], None)


def _some(chance: float, size: int) -> float:
    return -math.expm1(size * math.log1p(-min(chance, 1 - 1e-16)))


def looks(most: int = LOOKS) -> Iterator[Row]:
    """A rate at the limit, and a look after every case."""
    for limit in LIMITS:
        over = f"rate at the limit {limit:g}, a look after each of {most:,} cases"

        def below(h: int, n: int, p: float = limit) -> bool:
            return anytime.log_e_below(h, n, p) < -math.log(ERROR)

        def above(h: int, n: int, p: float = limit) -> bool:
            return anytime.log_e_above(h, n, p) >= -math.log(ERROR)

        def fixed(h: int, n: int, p: float = limit) -> bool:
            return statistics.upper_bound(h, n, 1 - ERROR) > p

        yield Row("anytime bounds", "PASS by mistake", over, _ever(limit, most, below, passes=True))
        yield Row("anytime bounds", "FAIL by mistake", over, _ever(limit, most, above, passes=False))
        yield Row("raw bounds", "PASS by mistake", over, _ever(limit, most, fixed, passes=True), None)


def _ever(rate: float, most: int, rule: Callable[[int, int], bool], *, passes: bool) -> float:
    """Return the chance that some look decides. `rule` says from which hits on a look does not pass, or that it fails."""
    alive, decided, edge = np.ones(1), 0.0, 0
    for n in range(1, most + 1):
        alive = np.append(alive, 0.0) * (1 - rate) + np.append(0.0, alive) * rate
        if not passes and edge > 0:
            edge -= 1
        while edge <= n and not rule(edge, n):
            edge += 1
        gone = slice(0, edge) if passes else slice(edge, None)
        decided += float(alive[gone].sum())
        alive[gone] = 0.0
        if passes and edge > 0:
            edge -= 1
    return decided


def attempts(most: int = 10) -> Iterator[Row]:
    """A rate at its limit, tried again until it passes."""
    for way in ("spend", "divide", "count"):
        policy = Policy(version="1", limits=(Limit(crr_max=0.1),), judges=("judge",), attempts=way)
        worst = told = 0.0
        for n, limit in itertools.product((60, 150, 300), LIMITS):
            left = 1.0
            for k in range(1, most + 1):
                error = bounds.alpha(policy, k)
                fails = least(lambda h, n=n, p=limit, e=error: statistics.upper_bound(h, n, 1 - e) > p, n)  # type: ignore[misc]
                left *= 1.0 - float(binom.cdf(fails - 1, n, limit))
            worst, told = max(worst, 1.0 - left), bounds.best_of(policy, most)
        over = f"the best of {most} runs of one cell at its limit, n 60 to 300"
        yield Row(f"attempts: {way}", "PASS by mistake", over, worst, told)


def ratios(pairs: Sequence[int] = (20, 40)) -> Iterator[Row]:
    """The ratio of two paired rates, over all outcomes of the pairs."""
    shares = ((0.7, 0.2, 0.05), (0.5, 0.3, 0.2), (0.72, 0.18, 0.0), (0.3, 0.3, 0.3), (0.05, 0.9, 0.0))
    missed = {"PASS": 0.0, "FAIL": 0.0}
    for n, (kept, lost, gained) in itertools.product(pairs, shares):
        ratio, total = (kept + gained) / (kept + lost), kept + lost + gained
        told = {"PASS": 0.0, "FAIL": 0.0}
        for union in range(n + 1):
            chance = float(binom.pmf(union, n, min(total, 1.0)))
            for hits in range(union + 1):
                for base in range(union - hits, union + 1):
                    both = hits + base - union
                    logs = [(both, kept), (base - both, lost), (hits - both, gained)]
                    if any(count and not share for count, share in logs):
                        continue
                    log = math.lgamma(union + 1) - sum(math.lgamma(c + 1) for c, _ in logs)
                    log += sum(c * math.log(share / total) for c, share in logs if c)
                    weight = chance * math.exp(log)
                    if statistics.ratio_lower_bound(hits, base, union, 1 - ERROR) > ratio:
                        told["PASS"] += weight
                    if statistics.ratio_upper_bound(hits, base, union, 1 - ERROR) < ratio:
                        told["FAIL"] += weight
        missed = {side: max(missed[side], told[side]) for side in missed}
    for side, error in missed.items():
        yield Row("retention's bounds", f"{side} side misses the ratio", f"{pairs[0]} to {pairs[-1]} pairs", error)


def pairs_of_series(cases: Sequence[int] = (32, 100, 300)) -> Iterator[Row]:
    """McNemar's test of equal rates, alone and in a family, and the margin."""
    for size in FAMILIES:
        worst = mid = 0.0
        for n, share in itertools.product(cases, (0.005, 0.02, 0.1, 0.25, 0.5)):
            apart = np.arange(n + 1)
            weight = binom.pmf(apart, n, min(2 * share, 1.0))
            exact = least_second(apart, lambda b, c, e=ERROR / size: paired.mcnemar(b, c) < e)  # type: ignore[misc]
            worst = max(worst, _some(float(weight @ binom.sf(exact - 1, apart, 0.5)), size))
            if size == 1:
                shown = least_second(apart, lambda b, c: paired.mid_p(b, c) < ERROR)
                mid = max(mid, float(weight @ binom.sf(shown - 1, apart, 0.5)))
        over = f"{size} cell{'s' * (size > 1)}, n {cases[0]} to {cases[-1]}, equal rates"
        yield Row("McNemar, exact", "some difference found by mistake", over, worst)
        if size == 1:
            yield Row("McNemar, mid-p (shown only)", "some difference found by mistake", over, mid, None)
    margin = 0.0
    for n, most in itertools.product(cases, (0.02, 0.05, 0.1)):
        told = least(lambda c, n=n, m=most: paired.increase_bound(c, n, 1 - ERROR) > m, n)  # type: ignore[misc]
        margin = max(margin, float(binom.cdf(told - 1, n, most)))
    yield Row("margin", "held by mistake", "an increase of the margin, 2 % to 10 %", margin)


def least_second(apart: np.ndarray, rejects: Callable[[int, int], bool]) -> np.ndarray:
    """For each number of pairs that differ: the least of them, hits of the second alone, at which a test rejects."""
    return np.array([least(lambda c, d=int(d): rejects(d - c, c), int(d)) for d in apart])  # type: ignore[misc]


PARTS = (exact_bounds, judged_bounds, families, looks, attempts, ratios, pairs_of_series)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| rule | error | over | largest | at most |", "|---|---|---|---|---|"]
    for row in rows:
        most = "shown for comparison" if row.most is None else f"{100 * row.most:.1f} %"
        lines.append(f"| {row.what} | {row.claim} | {row.over} | {100 * row.error:.1f} % | {most} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table, write it into the page, and return 1 when an error is larger than it may be."""
    rows: list[Row] = []
    for part in PARTS:
        for row in part():
            rows.append(row)
            print(
                f"{100 * row.error:5.1f} %  {'' if row.holds else 'TOO LARGE  '}{row.what}: {row.claim}; {row.over}",
                flush=True,
            )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(text, encoding="utf-8")
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
