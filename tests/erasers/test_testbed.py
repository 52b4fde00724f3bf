"""With the testbed's preset, every method makes the class that it erases rarer, and leaves others be."""

from __future__ import annotations

import pytest

from tests.erasers.rates import erased, rates

LIMITS = {"rece": 0.5, "speed": 0.5, "concept-ablation": 0.5, "spm": 0.5, "mace": 0.5, "advunlearn": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("method", LIMITS)
def test_the_erased_class_gets_rare_and_its_neighbours_stay(method: str) -> None:
    before = rates(None, ("star",))["star"]
    after = rates(erased(method, "star"), ("star", "ring", "heart"))
    assert before >= 0.75 and after["star"] <= LIMITS[method] and min(after["ring"], after["heart"]) >= 0.75
