"""Correct p-values of many decisions for their number."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return each p-value adjusted by Holm's step-down rule, in the given order, each in [0, 1].

    Rejecting every hypothesis whose adjusted p-value is below an error rejects a true one with at most that probability,
    whatever the dependence between them. Of m sorted p-values the i-th becomes the largest of (m - j + 1) p_j over j <= i.
    Equal p-values get equal adjusted ones, so the order of the decisions changes nothing. S. Holm, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Raises `ValueError` for a value outside [0, 1].
    """
    if not all(0.0 <= p <= 1.0 for p in p_values):
        raise ValueError("a p-value is not between 0 and 1")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
