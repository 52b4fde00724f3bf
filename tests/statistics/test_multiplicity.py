"""Holm's rule against statsmodels, and what it may not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from audit.statistics.multiplicity import holm

values = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.mark.parametrize("m", [1, 30])
def test_it_is_statsmodels(m: int) -> None:
    rng = np.random.default_rng(m)
    p_values = np.concatenate([rng.random(m), rng.random(m) ** 4 / 20, np.round(rng.random(m), 1)])
    assert holm(list(p_values)) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


@given(values, st.floats(0.001, 0.999))
def test_it_rejects_what_stepping_down_by_hand_does(p_values: list[float], error: float) -> None:
    rejected: set[int] = set()
    for place in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[place] * (len(p_values) - len(rejected)) >= error:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(holm(p_values)) if p < error} == rejected


@given(values, st.randoms())
def test_the_order_changes_nothing(p_values: list[float], random: object) -> None:
    order = list(range(len(p_values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = holm([p_values[i] for i in order])
    adjusted = holm(p_values)
    assert shuffled == [adjusted[i] for i in order]


@given(values, st.data())
def test_a_greater_p_value_lowers_no_other(p_values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(p_values) - 1))
    changed = [*p_values]
    changed[place] = data.draw(st.floats(p_values[place], 1))
    assert all(new >= old for old, new in zip(holm(p_values), holm(changed), strict=True))


def test_one_decision_is_not_corrected_and_nonsense_is_refused() -> None:
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    with pytest.raises(ValueError, match="not between 0 and 1"):
        holm([1.1])
