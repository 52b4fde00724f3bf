"""Does one level of a factor have more hits than the others? Fisher's exact test, one-sided. Pure functions."""

from __future__ import annotations

from math import comb


def p_more(hits: int, n: int, other_hits: int, others: int) -> float:
    """Return the probability of at least `hits` among `n` cases when hits fall on cases of both groups alike.

    Conditional on all margins: the upper tail of the hypergeometric distribution (R. A. Fisher, "The logic of inductive
    inference", Journal of the Royal Statistical Society 98, 1935). Raises ValueError for impossible counts.
    """
    if not (0 <= hits <= n and 0 <= other_hits <= others):
        raise ValueError(f"{hits} of {n} and {other_hits} of {others} are no counts of hits")
    total, found = n + others, hits + other_hits
    ways = comb(total, n)
    # Integers throughout: terms of large tables would vanish as floats.
    term = comb(found, hits) * comb(total - found, n - hits)
    tail = 0
    for k in range(hits, min(n, found) + 1):
        tail += term
        term = term * (found - k) * (n - k) // ((k + 1) * (total - found - n + k + 1))
    return min(1.0, tail / ways)
