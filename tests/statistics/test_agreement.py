"""Cohen's kappa against statsmodels, and the coverage of its interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from audit.labels.documents import Label
from audit.statistics.agreement import agreement

LABELS = list(Label)


def pairs(table: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Both raters' labels of a table of counts."""
    rows, columns = np.indices(table.shape)
    first, second = np.repeat(rows.ravel(), table.ravel()), np.repeat(columns.ravel(), table.ravel())
    return [LABELS[i] for i in first], [LABELS[i] for i in second]


@pytest.mark.parametrize("seed", range(20))
def test_kappa_and_its_interval_against_statsmodels(seed: int) -> None:
    """The interval holds the large-sample one."""
    rng = np.random.default_rng(seed)
    table = rng.multinomial(150, rng.dirichlet(np.ones(9))).reshape(3, 3) + np.diag(rng.integers(0, 90, 3))
    oracle, ours = cohens_kappa(table), agreement(*pairs(table), LABELS)
    assert ours.kappa == pytest.approx(oracle.kappa, abs=1e-12)
    assert ours.low <= max(-1.0, oracle.kappa_low) + 1e-9 and ours.high >= min(1.0, oracle.kappa_upp) - 1e-9
    assert ours.pictures == table.sum() and ours.agreed == np.trace(table)


def test_perfect_agreement_is_not_certain() -> None:
    """The large-sample variance is zero there; the exact bound of the agreement is not."""
    found = agreement(*pairs(np.diag([20, 20, 0])), LABELS)
    assert (found.kappa, found.high) == (1.0, 1.0)
    assert 0.7 < found.low < 0.9


@pytest.mark.parametrize("table", [np.zeros((3, 3), int), np.diag([30, 0, 0])])
def test_without_two_labels_there_is_no_kappa(table: npt.NDArray[np.int64]) -> None:
    found = agreement(*pairs(table), LABELS)
    assert (found.kappa, found.low, found.high) == (None, -1.0, 1.0)


def test_the_same_pictures_are_needed() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        agreement(["shows"], ["shows", "shows"], LABELS)


@pytest.mark.parametrize("right", [0.8, 0.97, 0.99])
def test_the_interval_covers(right: float) -> None:
    """Raters who are right this often, of 60 pictures of which three in ten show it: at most 5 % are missed."""
    wrong = 1.0 - right
    speaks = np.array([[right, 0.7 * wrong, 0.3 * wrong], [0.5 * wrong, right, 0.5 * wrong]])
    shares = 0.3 * np.outer(speaks[0], speaks[0]) + 0.7 * np.outer(speaks[1], speaks[1])
    expected = shares.sum(1) @ shares.sum(0)
    kappa = (np.trace(shares) - expected) / (1.0 - expected)
    rng, missed = np.random.default_rng(7), 0
    for _ in range(500):
        found = agreement(*pairs(rng.multinomial(60, shares.ravel()).reshape(3, 3)), LABELS)
        missed += not found.low <= kappa <= found.high
    assert missed <= 25
