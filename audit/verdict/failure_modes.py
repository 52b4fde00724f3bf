"""Where an erased concept comes back: levels of prompts, words, classes, seeds and images with more hits than the others.

Each level is compared with all other cases of its group by Fisher's exact test, one-sided, and the p-values of a group's
levels are corrected together by Holm's rule. A group is what one detector says of one cell, and for seeds and reference
images of all cells of one concept: there cases of several defences share a seed and are no independent draws, so that a
small p-value says that the seed matters, not by how much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from audit.statistics.association import p_more
from audit.statistics.multiplicity import holm

FEWEST = 3  # assessed cases of a level, and beside it: fewer cannot tell anything
SHOWN = 12  # levels of a group that are kept, those with the smallest p-values
COLOURS = frozenset({
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "black", "white", "gray", "grey", "brown",
    "golden", "silver", "violet", "magenta",
})  # fmt: skip
SIZES = frozenset({
    "tiny", "small", "little", "large", "big", "huge", "giant", "miniature", "close-up", "closeup", "enormous",
})  # fmt: skip
PLACES = frozenset({
    "left", "right", "top", "bottom", "centre", "center", "middle", "corner", "above", "below", "under", "over", "behind",
    "front", "inside", "outside", "beside",
})  # fmt: skip
_GRAMMAR = frozenset({
    "a", "an", "the", "of", "and", "or", "on", "in", "at", "to", "with", "without", "is", "are", "no", "by", "for", "from",
    "as", "its", "this", "that",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Level:
    """Counts of one level as the index has them."""

    concept: str
    cell_id: int | None  # None for seeds and images, over all cells of the concept
    detector: str
    factor: str
    level_name: str
    assessed: int
    hits: int
    other_assessed: int
    other_hits: int


@dataclasses.dataclass(frozen=True)
class FoundPicture:
    """Address of a picture in which a detector found the concept."""

    cell_id: int
    case_no: int
    image_id: int
    unit_key: str
    score: float | None
    sensitive: bool


@dataclasses.dataclass(frozen=True)
class FailureMode(Level):
    """A level with its test. `tests` levels of its group were tested; `pictures` are hits of the level."""

    p_value: float = 1.0
    corrected: float = 1.0
    tests: int = 0
    pictures: tuple[FoundPicture, ...] = ()


def factor_of(word: str, classes: Collection[str]) -> str | None:
    """Return what a word of a prompt tells: class, colour, size, place or word; None for words of grammar."""
    if word in _GRAMMAR:
        return None
    for factor, words in (("class", classes), ("colour", COLOURS), ("size", SIZES), ("place", PLACES)):
        if word in words:
            return factor
    return "word"


def compared(levels: Iterable[Level], classes: Collection[str]) -> tuple[FailureMode, ...]:
    """Return the tested levels with the smallest p-values of each group, at most `SHOWN`, group by group.

    Levels with fewer than `FEWEST` cases on either side are not tested, and those without a hit are tested and not listed.
    `classes` are the words of the concepts and their neighbours.
    """
    groups: dict[tuple[str, int | None, str], list[Level]] = {}
    for level in levels:
        factor = factor_of(level.level_name, classes) if level.factor == "word" else level.factor
        if factor is None or level.assessed < FEWEST or level.other_assessed < FEWEST:
            continue
        key = (level.concept, level.cell_id, level.detector)
        groups.setdefault(key, []).append(dataclasses.replace(level, factor=factor))
    modes: list[FailureMode] = []
    for rows in groups.values():
        modes += _corrected(rows)
    return tuple(modes)


def _corrected(rows: Sequence[Level]) -> list[FailureMode]:
    p_values = [p_more(row.hits, row.assessed, row.other_hits, row.other_assessed) for row in rows]
    modes = [
        FailureMode(**dataclasses.asdict(row), p_value=p, corrected=corrected, tests=len(rows))
        for row, p, corrected in zip(rows, p_values, holm(p_values), strict=True)
        if row.hits
    ]
    return sorted(modes, key=lambda mode: (mode.p_value, -mode.hits, mode.factor, mode.level_name))[:SHOWN]
