"""Write the tables of the testbed's model card as Markdown: numbers beside the goals that they meet or miss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

SINGLE_GOAL, PAIR_GOAL = 0.97, 0.95  # accuracies on held-out scenes of one and of two objects
HOURS_GOAL = 2.0  # of all trainings together
UNKNOWN = "not recorded"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A detector's agreement with the renderer on held-out scenes; the unlearned classes are included."""

    name: str
    single: float  # top class of single-object scenes
    pair: float  # both classes of two-object scenes are the top two


def verdict(measured: float, goal: float) -> str:
    """Return whether a measured number reaches its goal, in one word."""
    return "met" if measured >= goal else "missed"


def judges_table(accuracies: Sequence[Accuracy]) -> str:
    """Return a table with one row per instrument, and a sentence that says which of them meet which goal."""
    rows = [
        f"| {a.name} | {a.single:.3f} | {verdict(a.single, SINGLE_GOAL)} | {a.pair:.3f} | {verdict(a.pair, PAIR_GOAL)} |"
        for a in accuracies
    ]
    single = [a.name for a in accuracies if a.single >= SINGLE_GOAL]
    pair = [a.name for a in accuracies if a.pair >= PAIR_GOAL]
    return "\n".join(
        [
            f"| instrument | one object | goal {SINGLE_GOAL} | both of two | goal {PAIR_GOAL} |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Goal met for one object by {_named(single)} of {len(accuracies)} instruments, for both of two by {_named(pair)}.",
        ]
    )


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def costs_table(costs: Mapping[str, tuple[int, float] | None]) -> str:
    """Return a table of every training's steps and seconds, and a sentence that says whether their sum keeps to the goal."""
    rows = [
        f"| {name} | {f'{cost[0]:,} | {cost[1]:,.0f}' if cost else f'{UNKNOWN} | {UNKNOWN}'} |"
        for name, cost in costs.items()
    ]
    known = [cost[1] for cost in costs.values() if cost]
    if len(known) < len(costs):
        sentence = f"All of them together: {UNKNOWN}, so nothing says whether the goal of {HOURS_GOAL:g} hours is met."
    else:
        hours = sum(known) / 3600
        sentence = f"All of them together: {hours:.1f} hours (goal {HOURS_GOAL:g} {verdict(-hours, -HOURS_GOAL)})."
    return "\n".join(
        [
            "Training by the clock, over all sittings, as the checkpoints record it; rendering the scenes is not counted:",
            "",
            "| training | steps | seconds |",
            "|---|---|---|",
            *rows,
            "",
            sentence,
        ]
    )
