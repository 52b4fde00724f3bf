"""Comparisons of two runs made by hand."""

from __future__ import annotations

from audit.verdict.comparison import PairedRow
from audit.verdict.regression import Change, Comparison, Pairing, RunFacts, Unpaired, decide
from tests.report.runs import HOSTILE


def pairs(
    came_back: int = 0, held_now: int = 0, clear: int = 100, unpaired: int = 0, scenario: str = "text"
) -> PairedRow:
    """Cases of one cell: hits of the new run alone, of the old one alone, of neither, and such without a partner."""
    missing = dict.fromkeys(
        ("hit_unassessed", "clear_unassessed", "unassessed_hit", "unassessed_clear", "unassessed_unassessed"), 0
    )
    return PairedRow(
        concept="ring", scenario=scenario, detector="judge", first="uce in old", second="uce in new", hit_both=2,
        first_only=held_now, second_only=came_back, clear_both=clear, unpaired=unpaired, **missing,
    )  # fmt: skip


def compared(*rows: PairedRow, name: str = "ring", unpaired: tuple[Unpaired, ...] = ()) -> Comparison:
    """The comparison of these cells; `name` is whatever a run says of itself."""
    old, new = (RunFacts(f"{name}-{n}", name, f"2026-11-2{n}", name, "1", "1" * 64, None) for n in (1, 2))
    change = Change(name, name, name, name, True, 0, 0, 0, 0, 1)
    return decide(Pairing(old, new, ("judge",), tuple((name, row) for row in rows), unpaired, (change,)), 0.95)


def regressed() -> Comparison:
    """One cell got worse, one is held, and of one too little is known."""
    alone = Unpaired("ring", "ring", "latent", "old", "settings", 40, "sampler.steps 20, then 50")
    rows = pairs(came_back=14), pairs(held_now=3, scenario="embedding"), pairs(unpaired=40, scenario="latent")
    return compared(*rows, unpaired=(alone,))


def hostile() -> Comparison:
    """Every name is something that no report may act on."""
    alone = Unpaired(HOSTILE, HOSTILE, HOSTILE, "old", "settings", 40, HOSTILE)
    rows = (pairs(came_back=14, scenario=HOSTILE * 2), pairs(unpaired=40, scenario=HOSTILE))
    return compared(*rows, name=HOSTILE, unpaired=(alone,))
