"""Likeness to reference pictures: cosines of unit embeddings, and the score of a label from those of its references."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from audit.instruments.detectors.phrases import choice, mistake
from audit.instruments.detectors.references import References
from audit.spec.sections import DetectorSpec

Vectors = npt.NDArray[np.float64]  # unit vectors, pictures x D


@dataclasses.dataclass(frozen=True)
class Pooling:
    """How the cosines with the references of one label become its score."""

    kind: str  # max or mean
    nearest: int | None  # the mean is over so many of the highest; None for all

    def scores(self, cosines: Vectors) -> Vectors:
        """Return one score in 0..1 per picture from cosines (pictures, references). A negative one counts as none."""
        ordered = np.sort(cosines, axis=1)[:, ::-1]
        kept = ordered[:, :1] if self.kind == "max" else ordered[:, : self.nearest]
        result: Vectors = kept.mean(axis=1).clip(0.0, 1.0)
        return result


def pooling_of(spec: DetectorSpec, references: Sequence[References]) -> Pooling:
    """Return the pooling that `parameters.pooling` and `parameters.nearest` name. Raises `DetectorError` for a bad one."""
    kind, nearest = choice(spec, "pooling", ("max", "mean")), spec.parameters.get("nearest")
    if nearest is None:
        return Pooling(kind, None)
    if kind == "max":
        raise mistake(
            spec, "parameters.nearest", "nearest decides nothing while the highest counts", "set pooling: mean"
        )
    if type(nearest) is not int or nearest < 1:
        raise mistake(spec, "parameters.nearest", "nearest must be a whole number from 1", "write nearest: 5")
    fewest = min(references, key=lambda one: len(one.files))
    if nearest > len(fewest.files):
        raise mistake(
            spec,
            "parameters.nearest",
            f"the mean of {nearest} references is asked for, and {fewest.label!r} has {len(fewest.files)}",
            "lower it, or add pictures",
        )
    return Pooling(kind, nearest)


def separation(sets: Sequence[Vectors], pooling: Pooling) -> tuple[float, float]:
    """Return the mean score of references under their own label, each left out of it, and under the others' labels.

    The second is nan for a single label.
    """
    own, others = [], []
    for place, vectors in enumerate(sets):
        for index in range(len(vectors)):
            rest = np.delete(vectors, index, axis=0)
            own.append(float(pooling.scores(vectors[index : index + 1] @ rest.T)[0]))
        others += [score for n, other in enumerate(sets) if n != place for score in pooling.scores(vectors @ other.T)]
    return float(np.mean(own)), float(np.mean(others)) if others else float("nan")
