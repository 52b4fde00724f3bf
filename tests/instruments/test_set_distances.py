"""Distances between sets against scipy's matrix root, formulas in closed form and a direct double sum."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm

from audit.instruments.set_distances import cmmd, frechet, frechet_minimum


def features(count: int, dimensions: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions))
    return scale * rng.normal(size=(count, dimensions)) @ mixing + shift


def by_matrix_root(first: np.ndarray, second: np.ndarray) -> float:
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return float(shift @ shift + np.trace(c1 + c2) - 2 * np.trace(sqrtm(c1 @ c2)).real)


def by_double_sum(first: np.ndarray, second: np.ndarray) -> float:
    def mean(xs: np.ndarray, ys: np.ndarray) -> float:
        return math.fsum(math.exp(-float(((x - y) ** 2).sum()) / 200) for x in xs for y in ys) / (len(xs) * len(ys))

    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    return 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))


@pytest.mark.parametrize(("count", "dimensions"), [(40, 4), (200, 16), (17, 16)])
def test_frechet_equals_scipys_matrix_root(count: int, dimensions: int) -> None:
    first, second = features(count, dimensions, 1), features(count + 5, dimensions, 2, shift=0.7, scale=1.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = by_matrix_root(first, second)
    assert frechet(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet(second, first) == pytest.approx(expected, rel=1e-6)


def test_frechet_in_closed_form() -> None:
    values = np.array([[-1.0], [0.0], [1.0]])
    assert frechet(values, values) == pytest.approx(0, abs=1e-12)
    assert frechet(values, 3 * values + 2) == pytest.approx(4 + (3 - 1) ** 2)  # (mean shift)^2 + (s2 - s1)^2


def test_frechet_of_a_direction_without_variance_is_finite() -> None:
    first = np.c_[features(30, 3), np.zeros(30)]
    second = np.c_[features(30, 3, 5), np.zeros(30)]
    assert 0 <= frechet(first, second) < 100
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)


def test_frechet_refuses_too_few_pictures() -> None:
    assert frechet_minimum(16) == 17
    with pytest.raises(ValueError, match="16 pictures of 16 features; at least 17"):
        frechet(features(16, 16), features(40, 16))


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_cmmd_equals_the_double_sum(shift: float) -> None:
    first, second = features(12, 6, 1), features(9, 6, 2, shift=shift)
    assert cmmd(first, second) == pytest.approx(by_double_sum(first, second), rel=1e-6, abs=1e-9)
    assert cmmd(first, 7 * first) == pytest.approx(0, abs=1e-9)  # lengths do not count


def test_cmmd_in_closed_form() -> None:
    east, north = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1.0]] * 3)
    assert cmmd(east, north) == pytest.approx(1000 * 2 * (1 - math.exp(-2 / 200)))


def test_many_pictures_are_summed_in_blocks() -> None:
    first, second = features(1100, 3, 1), features(600, 3, 2, shift=1.0)
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 200).mean())

    expected = 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))
    assert cmmd(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", [frechet, cmmd])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (features(20, 3), features(20, 4), "cannot be compared"),
        (features(20, 3), features(20, 3) * math.nan, "not finite"),
        (features(1, 1), features(1, 1), "needed"),
    ],
)
def test_what_cannot_be_compared_is_refused(distance, first, second, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        distance(first, second)


def test_a_zero_vector_has_no_direction() -> None:
    with pytest.raises(ValueError, match="zero"):
        cmmd(np.zeros((2, 3)), features(2, 3))
