"""Random captions with their meaning, so that which caption is true of which scene is known and not guessed."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from audit.testbed.captions import (
    ALL_CLASSES,
    BACKGROUNDS,
    COLOURS,
    FILLS,
    MEDIA,
    SYNONYM_RATE,
    SYNONYMS,
    article,
    background_phrase,
)
from audit.testbed.data import NOTHING, Scenes


@dataclasses.dataclass(frozen=True)
class Statement:
    """A caption and what it claims: up to two (class, colour, fill) triples, -1 for unsaid, and a background."""

    text: str
    claims: tuple[tuple[int, int, int], ...]
    background: int
    empty: bool  # claims that there is no object


def random_statement(scenes: Scenes, row: int, rng: np.random.Generator) -> Statement:
    """Return a random caption that is true of scene `row`: one or both objects, with some of their attributes."""
    present = [tuple(int(v) for v in o) for o in scenes.objects[row] if o[0] != NOTHING]
    medium = f"{article(MEDIA[int(rng.integers(len(MEDIA)))])} of " if rng.random() < 0.6 else ""
    background = int(scenes.backgrounds[row])
    if not present:
        text = medium + article(f"empty {background_phrase(BACKGROUNDS[background])}")
        return Statement(text, (), background, True)
    mentioned = int(rng.integers(1, len(present) + 1))
    bare = rng.random() < 0.5
    claims, phrases = [], []
    for index in rng.permutation(len(present))[:mentioned]:
        claim, phrase = _claim(present[int(index)], bare, rng)
        claims.append(claim)
        phrases.append(article(phrase))
    named = background if rng.random() < 0.3 else NOTHING
    tail = f" on {article(background_phrase(BACKGROUNDS[named]))}" if named != NOTHING else ""
    return Statement(medium + " and ".join(phrases) + tail, tuple(claims), named, False)


def _claim(thing: tuple[int, ...], bare: bool, rng: np.random.Generator) -> tuple[tuple[int, int, int], str]:
    kind, colour, fill = thing
    name = ALL_CLASSES[kind]
    words = [SYNONYMS[name] if rng.random() < SYNONYM_RATE else name]
    says_colour, says_fill = not bare and rng.random() < 0.7, not bare and rng.random() < 0.4
    if says_colour:
        words.insert(0, COLOURS[colour])
    if says_fill:
        words.insert(0, FILLS[fill])
    return (kind, colour if says_colour else NOTHING, fill if says_fill else NOTHING), " ".join(words)


def standard_statements() -> list[Statement]:
    """Return the prompts that zero-shot detection uses, one per class and background, so that every batch trains them."""
    classes = [
        Statement(f"a photo of {article(name)}", ((number, NOTHING, NOTHING),), NOTHING, False)
        for number, name in enumerate(ALL_CLASSES)
    ]
    empty = [
        Statement(f"a photo of {article(f'empty {background_phrase(name)}')}", (), number, True)
        for number, name in enumerate(BACKGROUNDS)
    ]
    return classes + empty


def truth(scenes: Scenes, rows: NDArray[np.int64], statements: list[Statement]) -> NDArray[np.bool_]:
    """Return a matrix (scenes, statements): whether each statement is true of each scene."""
    objects, backgrounds = scenes.objects[rows], scenes.backgrounds[rows]
    vacant = (objects[:, :, 0] == NOTHING).all(1)
    matrix = np.zeros((len(rows), len(statements)), dtype=bool)
    for column, statement in enumerate(statements):
        holds = vacant.copy() if statement.empty else np.ones(len(rows), dtype=bool)
        if statement.background != NOTHING:
            holds &= backgrounds == statement.background
        for claim in statement.claims:
            said = np.array(claim) != NOTHING
            holds &= ((objects == np.array(claim)) | ~said).all(2).any(1)
        matrix[:, column] = holds
    return matrix
