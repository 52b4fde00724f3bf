"""One line of the benchmark table, and whether it holds what was promised."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured number beside its limit; `form` shows both, e.g. `{:.1f} s`. Without a limit it only informs."""

    name: str
    value: float
    form: str = "{:.2f}"
    limit: float | None = None
    detail: str = ""
    least: bool = False  # whether the limit is the smallest good value, not the largest

    @property
    def goal(self) -> str:
        """The limit as text; empty without one."""
        return "" if self.limit is None else f"{'>=' if self.least else '<='} {self.form.format(self.limit)}"

    @property
    def missed(self) -> bool:
        """Whether there is a limit and the value, not a number included, is on its wrong side."""
        if self.limit is None:
            return False
        return not (self.value >= self.limit if self.least else self.value <= self.limit)


def spread(name: str, ratios: Sequence[float], limit: float | None, how: str, *, least: bool = False) -> Figure:
    """Return the median of ratios that were measured in turns, their smallest and largest beside it."""
    detail = f"{min(ratios):.2f} to {max(ratios):.2f}; {how}"
    return Figure(name, statistics.median(ratios), "{:.2f}x", limit, detail, least)


def print_table(figures: Iterable[Figure]) -> int:
    """Print figures as one Markdown table, each as soon as it is measured; the number of those that missed their limit."""
    print("| figure | measured | goal | | how |\n|---|---|---|---|---|", flush=True)
    missed = 0
    for figure in figures:
        verdict = "" if figure.limit is None else "**missed**" if figure.missed else "met"
        cells = (figure.name, figure.form.format(figure.value), figure.goal, verdict, figure.detail)
        print(f"| {' | '.join(cells)} |", flush=True)
        missed += figure.missed
    return missed


def conclude(figures: Iterable[Figure]) -> None:
    """Print the table, then end the process: with status 1 when a limit was missed."""
    missed = print_table(figures)
    if missed:
        print(f"\nfigures that missed their limit: {missed}")
    raise SystemExit(1 if missed else 0)
