"""The nearest un-erased picture: ties, exclusions, and the scale by which near is told from far."""

from __future__ import annotations

import numpy as np
import pytest

from audit.verdict import nearest as module
from audit.verdict.nearest import NearestPair, Scale, UnerasedPicture, distance, nearest, scale_of


def vectors(count: int, seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, size)).astype(np.float32)


def test_it_is_what_every_distance_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    pictures, references = vectors(20, 1), vectors(50, 2)
    every = np.linalg.norm(pictures[:, None].astype(float) - references[None].astype(float), axis=-1)
    found = nearest(pictures, references)
    assert [place for place, _ in found] == every.argmin(1).tolist()
    assert [away for _, away in found] == pytest.approx(every.min(1), rel=1e-5)


def test_equal_pictures_have_no_distance_and_the_preferred_of_equals_is_taken() -> None:
    references = np.concatenate([vectors(3), vectors(3)]) + np.float32(1000)
    assert nearest(references[:3], references) == [(0, 0.0), (1, 0.0), (2, 0.0)]
    assert nearest(references[:3], references, preferred=[3, -1, 0]) == [(3, 0.0), (1, 0.0), (2, 0.0)]
    assert distance(references[0], references[3]) == 0.0


def test_the_scale_leaves_out_pictures_of_the_same_seed() -> None:
    """Two attacks that draw nearly the same pictures from the same seeds would make every distance look far."""
    one = vectors(20)
    scale = scale_of(np.concatenate([one, one + np.float32(1e-4)]), [*range(20), *range(20)])
    assert len(scale.distances) == 40 and min(scale.distances) > 0.5
    assert (scale.closer_share(0.0), scale.closer_share(1e9), scale.closer_share(scale.distances[1])) == (
        0.0,
        1.0,
        0.05,
    )


def test_too_few_pictures_tell_nothing() -> None:
    assert scale_of(vectors(15), range(15)) == Scale() == scale_of(vectors(40), [7] * 40)
    assert Scale().closer_share(1.0) is None and Scale().usual is None


def test_the_scale_of_very_many_is_taken_from_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SCALED", 30)
    assert len(scale_of(vectors(200), range(200)).distances) == 30


def test_what_is_not_finite_or_absent_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        nearest(np.full((1, 8), np.nan, np.float32), vectors(3))
    with pytest.raises(ValueError, match="no picture"):
        nearest(vectors(1), vectors(0))


@pytest.mark.parametrize(
    ("share", "copy", "distinct"),
    [
        (0.0, True, False),
        (0.05, True, False),
        (0.06, False, False),
        (0.95, False, False),
        (0.96, False, True),
        (None, False, False),
    ],
)
def test_near_copies_and_distinct_pictures(share: float | None, copy: bool, distinct: bool) -> None:
    pair = NearestPair(0, 1, 2, "unit", 0.9, False, UnerasedPicture(1, 1, 3, "other"), 0.1, share, False)
    assert (pair.is_copy, pair.is_distinct) == (copy, distinct)
