"""The picture check: a set of pictures that is no set of the un-erased model's is told from one that is merely changed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from audit.verdict import damage


def pictures(seed: int, *, shift: float = 0.0, count: int = 32) -> damage.Features:
    """Feature vectors of `count` pictures around a common centre."""
    return np.random.default_rng(seed).normal(shift, 1.0, (count, 24))


def energy(one: damage.Features, other: damage.Features) -> float:
    return damage._energy(*(damage._distances(a, b) for a, b in ((one, other), (one, one), (other, other))))


def test_the_energy_distance_is_the_published_one() -> None:
    one, other = pictures(1), pictures(2, shift=0.4)
    expected = 2 * cdist(one, other).mean() - cdist(one, one).mean() - cdist(other, other).mean()
    assert energy(one, other) == pytest.approx(expected, rel=1e-6)
    assert energy(one, one) == 0.0


def test_other_pictures_of_the_same_kind_are_no_damage() -> None:
    for seed in range(8):
        found = damage.compare(pictures(100 + seed), pictures(seed))
        assert found.p_value > 0.05
        assert 0.5 < found.distance / found.reference < 1.6


def test_equal_pictures_lie_in_the_middle_of_the_splits() -> None:
    found = damage.compare(pictures(3), pictures(3))
    assert 0.3 < found.p_value < 0.7
    assert found.distance == pytest.approx(found.reference, rel=0.1)


def test_pictures_of_another_kind_are_damage_and_as_sure_as_the_splits_allow() -> None:
    found = damage.compare(pictures(5, shift=1.5), pictures(4))
    assert found.p_value == 1 / (damage.SPLITS + 1)
    assert found.distance > 2 * found.reference


def test_one_picture_for_every_prompt_is_damage() -> None:
    """A guard that always paints the same: each picture is one of the model's, the set is not."""
    backbone = pictures(6)
    found = damage.compare(np.repeat(backbone[:1], len(backbone), axis=0), backbone)
    assert found.p_value <= 0.01


@pytest.mark.parametrize(
    ("defended", "backbone", "message"),
    [
        (pictures(0, count=15), pictures(1, count=15), "15 pairs of benign pictures; at least 16"),
        (pictures(0, count=16), pictures(1, count=17), "are not pairs"),
        (np.full((16, 4), np.nan), np.zeros((16, 4)), "not finite"),
    ],
)
def test_what_cannot_be_compared_raises(defended: damage.Features, backbone: damage.Features, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        damage.compare(defended, backbone)


def test_a_strange_picture_is_farther_than_any_of_the_model_s_own() -> None:
    references = pictures(7, count=64)
    far = np.full((1, 24), 9.0)
    assert damage.strange(np.vstack([references[:3], far]), references).tolist() == [False, False, False, True]
    # Of pictures from the same source about one in twenty is called strange.
    assert 0.01 < damage.strange(pictures(8, count=400), references).mean() < 0.12
    with pytest.raises(ValueError, match="at least 16 are needed"):
        damage.strange(far, references[:15])
