"""Captions of testbed scenes: the vocabulary, the grammar, and what is true of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

CLASSES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "heart",
    "moon",
    "diamond",
    "hexagon",
)
UNLEARNED: tuple[str, ...] = ("arrow", "drop")
ALL_CLASSES: tuple[str, ...] = CLASSES + UNLEARNED
SYNONYMS: dict[str, str] = {
    "circle": "disc",
    "square": "box",
    "triangle": "delta",
    "star": "pentagram",
    "ring": "hoop",
    "cross": "plus",
    "heart": "valentine",
    "moon": "crescent",
    "diamond": "rhombus",
    "hexagon": "honeycomb",
    "arrow": "pointer",
    "drop": "teardrop",
}
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS: tuple[str, ...] = ("white", "gray", "black", "sky", "checkered")
FILLS: tuple[str, ...] = ("plain", "striped", "dotted")
SUPERCLASSES: tuple[str, ...] = ("shape", "object")
MEDIA: tuple[str, ...] = ("photo", "image", "picture", "drawing")
GRAMMAR_WORDS: tuple[str, ...] = (
    "a",
    "an",
    "of",
    "and",
    "on",
    "background",
    "empty",
    "the",
    "in",
    "with",
    "no",
    "scene",
    "style",
    "without",
)
WORDS: tuple[str, ...] = tuple(
    sorted({*ALL_CLASSES, *SYNONYMS.values(), *COLOURS, *BACKGROUNDS, *FILLS, *SUPERCLASSES, *MEDIA, *GRAMMAR_WORDS})
)
SYNONYM_RATE = 0.3
SUPERCLASS_RATE = 0.05


class Describable(Protocol):
    """What a caption needs to know of an object."""

    @property
    def cls(self) -> str:
        """Its class, such as `ring`."""

    @property
    def colour(self) -> str:
        """The name of its colour."""

    @property
    def fill(self) -> str:
        """How it is filled, such as `striped`."""


def article(phrase: str) -> str:
    """Return the phrase with its indefinite article: "an orange disc"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def background_phrase(background: str) -> str:
    """Return the noun phrase of a background: "gray background"."""
    return f"{background} background"


def mention(thing: Describable, rng: np.random.Generator, bare: bool) -> str:
    """Return a random noun phrase that is true of `thing`; `bare` leaves out colour and fill.

    About 30 % of the phrases use the class's synonym.
    """
    words: list[str] = []
    if not bare:
        if rng.random() < (0.8 if thing.fill != "plain" else 0.1):
            words.append(thing.fill)
        if rng.random() < 0.85:
            words.append(thing.colour)
    draw = rng.random()
    if draw < SUPERCLASS_RATE:
        noun = SUPERCLASSES[int(rng.integers(len(SUPERCLASSES)))]
    else:
        noun = SYNONYMS[thing.cls] if draw < SUPERCLASS_RATE + SYNONYM_RATE else thing.cls
    return " ".join([*words, noun])


def caption(things: Sequence[Describable], background: str, rng: np.random.Generator) -> str:
    """Return a random caption that is true of a scene with exactly these objects.

    Every object is mentioned, the background in about half of the captions. Without objects the caption names the
    background only ("an empty gray background").
    """
    medium = f"{article(MEDIA[int(rng.integers(len(MEDIA)))])} of " if rng.random() < 0.5 else ""
    if not things:
        empty = "empty " if rng.random() < 0.5 else ""
        return medium + article(empty + background_phrase(background))
    bare = rng.random() < 0.3
    order = rng.permutation(len(things))
    phrases = [mention(things[int(i)], rng, bare) for i in order]
    if len(phrases) == 1 and not medium and rng.random() < 0.15:
        body = phrases[0]
    else:
        body = " and ".join(article(p) for p in phrases)
    tail = f" on {article(background_phrase(background))}" if rng.random() < 0.5 else ""
    return medium + body + tail


def class_prompt(cls: str) -> str:
    """Return the plain prompt for a class: "a photo of a circle"."""
    return f"a photo of {article(cls)}"
