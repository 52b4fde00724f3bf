"""Paired comparisons: what they find, what they cannot, and what an error may not do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from audit.verdict.comparison import PairedRow, compare, regression

COUNTS = (
    "hit_both", "first_only", "second_only", "clear_both", "hit_unassessed", "clear_unassessed", "unassessed_hit",
    "unassessed_clear", "unassessed_unassessed", "unpaired",
)  # fmt: skip


def row(**counts: Any) -> PairedRow:
    names = {"concept": "ring", "scenario": "text", "detector": "judge", "first": "uce", "second": "uce+sld"}
    return PairedRow(**{**names, **dict.fromkeys(COUNTS, 0), **counts})


def test_a_guard_that_helps_is_better_and_no_worse() -> None:
    (decision,) = compare([row(hit_both=20, first_only=15, second_only=1, clear_both=64)])
    assert (decision.word, decision.better, decision.worse) == ("better", True, False)
    assert decision.p_better == pytest.approx(binomtest(15, 16, alternative="greater").pvalue)
    assert decision.difference == pytest.approx(-0.14)
    assert decision.difference_low < -0.14 < decision.difference_high < 0
    assert regression([decision]) is False
    assert decision.held and decision.increase_at_most == pytest.approx(0.0466, abs=1e-4)


def test_a_regression_is_found_and_corrected_for_the_number_of_cells() -> None:
    bad = row(hit_both=20, first_only=2, second_only=12, clear_both=66)
    (alone,) = compare([bad])
    assert (alone.word, regression([alone])) == ("worse", True)
    many = compare([bad, *[row(clear_both=100)] * 19])
    assert many[0].p_worse_adjusted == pytest.approx(20 * alone.p_worse)
    assert (many[0].worse, regression(many)) == (False, None)
    assert many[0].p_worse_mid < many[0].p_worse


def test_few_pairs_show_neither() -> None:
    (decision,) = compare([row(clear_both=58)])
    assert (decision.word, decision.held) == ("not decided", False)
    assert compare([row(clear_both=59)])[0].word == "no worse"
    assert regression([]) is None
    (empty,) = compare([row()])
    assert (empty.difference, empty.increase_at_most, empty.word) == (None, 1.0, "not decided")


def test_a_margin_is_a_share() -> None:
    with pytest.raises(ValueError, match="margin 1"):
        compare([], margin=1)


@settings(max_examples=150, deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * len(COUNTS)), st.data())
def test_an_error_makes_no_claim_easier(counts: tuple[int, ...], data: st.DataObject) -> None:
    before = dict(zip(COUNTS, counts, strict=True))
    lost = {
        "hit_both": ("hit_unassessed", "unassessed_hit", "unpaired"),
        "first_only": ("hit_unassessed", "unassessed_clear", "unpaired"),
        "second_only": ("clear_unassessed", "unassessed_hit", "unpaired"),
        "clear_both": ("clear_unassessed", "unassessed_clear", "unpaired"),
        "hit_unassessed": ("unassessed_unassessed",),
        "unassessed_clear": ("unassessed_unassessed",),
        "clear_unassessed": ("unassessed_unassessed",),
        "unassessed_hit": ("unassessed_unassessed",),
    }
    filled = [name for name in lost if before[name]]
    if not filled:
        return
    name = data.draw(st.sampled_from(filled))
    to = data.draw(st.sampled_from(lost[name]))
    after = {**before, name: before[name] - 1, to: before[to] + 1}
    (old,), (new,) = compare([row(**before)]), compare([row(**after)])
    assert new.p_worse >= old.p_worse - 1e-12
    assert new.p_better >= old.p_better - 1e-12
    assert new.increase_at_most >= old.increase_at_most
    assert old.row.pairs == new.row.pairs


def test_the_order_of_cells_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    rows = [row(**dict(zip(COUNTS, map(int, rng.integers(0, 30, len(COUNTS))), strict=True))) for _ in range(12)]
    decisions = compare(rows)
    turned = compare(rows[::-1])
    assert tuple(turned[::-1]) == decisions
    assert dataclasses.asdict(decisions[0])["row"]["concept"] == "ring"
