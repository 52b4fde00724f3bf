"""One line of the benchmark table."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured figure beside its goal; `goal` is empty where there is none."""

    name: str
    value: str
    goal: str = ""
    detail: str = ""


def print_table(figures: list[Figure]) -> None:
    """Print figures as one Markdown table."""
    print("| figure | measured | goal | how |\n|---|---|---|---|")
    for figure in figures:
        print(f"| {figure.name} | {figure.value} | {figure.goal} | {figure.detail} |", flush=True)
