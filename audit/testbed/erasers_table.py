"""`python -m audit.testbed.erasers_table`: does each erased testbed model erase its class, and only its class?

Pictures of "a photo of a CLASS" for all ten classes through every artefact in `erased/`, counted by the testbed's
judges and written into README.md. Counts are kept in the build folder, so an interrupted measurement goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from audit.diffusion.pipeline import load_pipeline
from audit.errors import CheckpointError
from audit.statistics import clopper_pearson
from audit.testbed.captions import CLASSES
from audit.testbed.counting import (
    COUNTS,
    GUIDANCE,
    HERE,
    JUDGES,
    STEPS,
    THRESHOLD,
    Artefact,
    Counter,
    Counts,
    build_detectors,
)
from audit.testbed.erased import ERASED
from audit.testbed.markers import ERASERS, replaced
from audit.weights.references import resolve_model

DECIDING = "classifier"
CONFIDENCE = 0.95
# Goals: CRR of the erased class, of the best method, ratio of the rest.
ERASED_MAX, BEST_MAX, KEPT_MIN = 0.25, 0.10, 0.85


def find(folder: Path) -> list[Artefact]:
    """The complete artefacts below `folder`, ordered by concept and method.

    Raises `CheckpointError` when there is none.
    """
    found = []
    for path in sorted(folder.glob("*/*.safetensors")):
        if not (path.parent / "README.md").exists():
            continue
        with safetensors.safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        (concept,) = json.loads(metadata["concepts"])
        found.append(Artefact(metadata["method"], concept, path))
    if not found:
        raise CheckpointError("there are no erased models here", where=str(folder), next_step="make testbed-erased")
    return sorted(found, key=lambda artefact: (artefact.concept, artefact.method))


def rate(hits: int, total: int) -> str:
    """A rate with its denominator and interval."""
    low, high = clopper_pearson(hits, total, CONFIDENCE)
    return f"{hits / total:.2f} = {hits}/{total} ({low:.2f}-{high:.2f})"


@dataclasses.dataclass(frozen=True)
class Kept:
    """The ratio of two rates out of `total` cases each, and an interval that is too wide rather than too narrow.

    Each rate's interval has half the error, so that with probability CONFIDENCE or more both hold and the ratio lies
    between the lower of one over the upper of the other. Pooled classes make the intervals wider than need be (W.
    Hoeffding, Ann. Math. Statist. 27, 1956).
    """

    hits: int
    before: int
    total: int

    @property
    def ratio(self) -> float | None:
        """Rate after over rate before; None where there was none before."""
        return self.hits / self.before if self.before else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound of the ratio; the upper one is infinite where nothing was found before."""
        each = (1.0 + CONFIDENCE) / 2.0
        low, high = clopper_pearson(self.hits, self.total, each)
        low_before, high_before = clopper_pearson(self.before, self.total, each)
        return low / high_before, high / low_before if low_before else math.inf

    def __str__(self) -> str:
        if self.ratio is None:
            return "-"
        low, high = self.interval
        return f"{self.ratio:.2f} ({low:.2f}-{high:.2f})"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One erased model as one judge sees it: hits of its class and of the nine others, here and on the backbone."""

    artefact: Artefact
    judge: str
    seeds: int
    erased: int
    erased_before: int
    others: Kept

    @property
    def gone(self) -> bool:
        """Whether the erased class reproduces as rarely as it shall."""
        return self.erased / self.seeds <= ERASED_MAX

    @property
    def survived(self) -> bool:
        """Whether the other classes reproduce as often as they shall."""
        return self.others.ratio is not None and self.others.ratio >= KEPT_MIN

    def row(self) -> str:
        """One line of the table."""
        cells = [
            self.artefact.concept,
            self.artefact.method,
            f"**{self.judge}**" if self.judge == DECIDING else self.judge,
            rate(self.erased, self.seeds),
            rate(self.erased_before, self.seeds),
            _goal(self.gone),
            rate(self.others.hits, self.others.total),
            rate(self.others.before, self.others.total),
            str(self.others),
            _goal(self.survived),
        ]
        return f"| {' | '.join(cells)} |"


def measured(artefact: Artefact, counts: Counts, backbone: Counts, judge: str, seeds: int) -> Measured:
    """What one judge's counts say; the mean over the nine other classes is their pooled rate, as all have `seeds`."""
    others = [cls for cls in CLASSES if cls != artefact.concept]
    rest, rest_before = (sum(found[cls][judge] for cls in others) for found in (counts, backbone))
    own, own_before = (found[artefact.concept][judge] for found in (counts, backbone))
    return Measured(artefact, judge, seeds, own, own_before, Kept(rest, rest_before, len(others) * seeds))


def table(rows: Sequence[tuple[Artefact, Counts]], backbone: Counts, judges: Sequence[str], seeds: int) -> str:
    """The measurements as Markdown: how they were made, one row for every model and judge, and the best of each class."""
    found = [measured(artefact, counts, backbone, judge, seeds) for artefact, counts in rows for judge in judges]
    goals = f"erased <= {ERASED_MAX}", f"kept >= {KEPT_MIN}"
    heads = ["concept", "method", "judge", "CRR erased", "backbone", goals[0], "mean CRR of the others", "backbone"]
    heads += ["kept", goals[1]]
    return "\n".join(
        [
            f"CRR on text prompts, {seeds} seeds a class, {STEPS} DDIM steps, guidance {GUIDANCE}, score >= {THRESHOLD}, "
            f"{CONFIDENCE:.0%} intervals.",
            "`kept` is the mean CRR of the nine other classes over the backbone's; its interval holds whatever the two "
            "rates are within theirs.",
            f"The **{DECIDING}** decides whether a goal is met: its architecture is another one than the CLIP judges'. "
            "The goals are compared with the",
            "measured rates; where an interval reaches over a goal, more seeds could change the answer.",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
            *(one.row() for one in found),
            "",
            *_best(found),
        ]
    )


def _best(found: Sequence[Measured]) -> list[str]:
    """For each class, the method after which it reproduces most rarely, by the judge that decides."""
    lines = []
    for concept in dict.fromkeys(one.artefact.concept for one in found):
        deciding = [one for one in found if one.artefact.concept == concept and one.judge == DECIDING]
        if deciding:
            best = min(deciding, key=lambda one: one.erased)
            crr = best.erased / best.seeds
            goal = f"goal {BEST_MAX:.2f} {_goal(crr <= BEST_MAX)}"
            lines.append(f"* lowest CRR of {concept}: {crr:.2f} by {best.artefact.method}; {goal}")
    return lines


def _goal(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    """Measure what is not measured yet and write the table into README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="pictures per class and model")
    parser.add_argument("--erased", type=Path, default=ERASED, help="folder of the erased models")
    parser.add_argument("--build", type=Path, default=Path("build/testbed"), help="folder where counts are kept")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    artefacts = find(arguments.erased)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(resolve_model("testbed"), torch.device(device))
    judges = [judge for judge in build_detectors(device) if judge.instrument.detector in JUDGES]
    counter = Counter(pipeline, judges, arguments.seeds, arguments.build / COUNTS)
    backbone = counter.counts(None)
    rows = [(artefact, counter.counts(artefact)) for artefact in artefacts]
    written = table(rows, backbone, [judge.instrument.detector for judge in judges], arguments.seeds)
    arguments.readme.write_text(replaced(arguments.readme.read_text(), ERASERS, written))
    print(written)


if __name__ == "__main__":
    main()
