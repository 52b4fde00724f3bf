"""The table of `make statistics`: its cheap rows again, and what the page says of all of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.bench import statistics_table
from tests.bench.statistics_table import PAGE, Row


def test_no_bound_or_test_on_the_page_errs_more_often_than_it_says() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| ([\d.]+) % \| ([\d.]+) % \|$", PAGE.read_text(), re.M)
    assert len(rows) > 20
    assert all(float(error) <= float(most) for _, error, most in rows)
    assert {name.partition(",")[0] for name, *_ in rows} >= {
        "no-credit bounds",
        "anytime bounds",
        "Holm's rule",
        "margin",
    }


@pytest.mark.parametrize("part", [statistics_table.attempts, statistics_table.pairs_of_series])
def test_rows_that_are_quickly_summed_are_those_of_the_page(part: object) -> None:
    rows = list(part())  # type: ignore[operator]
    assert rows and all(row.holds for row in rows)
    lines = PAGE.read_text().splitlines()
    assert all(line in lines for line in statistics_table.table(rows).splitlines()[2:])


def test_a_small_grid_holds_for_judges_and_families() -> None:
    rows = [*statistics_table.exact_bounds((20, 60)), *statistics_table.judged_bounds((20,), (12,))]
    rows += statistics_table.looks(60)
    assert all(row.holds for row in rows)
    assert max(row.error for row in rows if row.most is None) > 0.3


def test_an_error_that_is_too_large_is_seen() -> None:
    assert not Row("a", "b", "c", 0.0501).holds
    assert Row("a", "b", "c", 0.9, None).holds


def test_a_look_after_every_case_is_what_draws_say() -> None:
    rng = np.random.default_rng(11)
    hits = np.cumsum(rng.random((20_000, 200)) < 0.1, axis=1)
    n = np.arange(1, 201)
    edges = [statistics_table.least(lambda h, n=int(k): _too_many(h, n), int(k)) for k in n]  # type: ignore[misc]
    drawn = float((hits < np.array(edges)).any(axis=1).mean())
    summed = statistics_table._ever(0.1, 200, _too_many, passes=True)
    assert drawn == pytest.approx(summed, abs=0.01)


def _too_many(hits: int, n: int) -> bool:
    return statistics_table.statistics.upper_bound(hits, n, 0.95) > 0.1
