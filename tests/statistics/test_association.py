"""The one-sided exact test of two groups against SciPy's, and its error rate when nothing differs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import fisher_exact

from audit.statistics.association import p_more


def test_it_is_fisher_s_exact_test() -> None:
    for n, others in itertools.product((1, 3, 8), (1, 5, 12)):
        for hits, other_hits in itertools.product(range(n + 1), range(others + 1)):
            table = [[hits, n - hits], [other_hits, others - other_hits]]
            expected = float(fisher_exact(table, alternative="greater").pvalue)
            assert p_more(hits, n, other_hits, others) == pytest.approx(expected, rel=1e-9)


def test_large_tables_do_not_vanish() -> None:
    assert 0 < p_more(2000, 2500, 1000, 2500) < 1e-150
    assert p_more(0, 5000, 0, 5000) == 1.0


def test_it_errs_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    hits, other_hits = rng.binomial(20, 0.3, 2000), rng.binomial(40, 0.3, 2000)
    p_values = [p_more(int(a), 20, int(b), 40) for a, b in zip(hits, other_hits, strict=True)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("counts", [(-1, 3, 0, 3), (4, 3, 0, 3), (0, 3, 4, 3)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no counts"):
        p_more(*counts)
