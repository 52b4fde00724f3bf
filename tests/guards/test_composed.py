"""Where a phrase stands in a composed text: in its own place, not where its words stand first."""

from __future__ import annotations

import pytest

from audit.diffusion.pipeline import Pipeline
from audit.errors import SpecError
from audit.guards.composed import compose, positions

PHOTO = "a photo of a {phrase}"


def words(pipeline: Pipeline, template: str, phrase: str, *neighbours: str) -> list[list[int]]:
    return positions(pipeline.tokenizer, compose(template, phrase, neighbours))


@pytest.mark.parametrize(
    ("template", "phrase", "neighbours", "expected"),
    [
        (PHOTO, "ring", ("circle", "square"), [[5], [8], [11]]),
        (PHOTO, "red ring", ("ring",), [[5, 6], [9]]),
        (PHOTO, "ring", ("red ring", "ring"), [[5], [8, 9], [12]]),
        ("a ring and a {phrase}", "ring", ("circle",), [[5], [8]]),
        ("{phrase} beside a ring", "ring", (), [[1]]),
        ("a photo of a {phrase}, red", "ring", (), [[5]]),
    ],
)
def test_each_phrase_is_found_in_its_own_place(
    testbed: Pipeline, template: str, phrase: str, neighbours: tuple[str, ...], expected: list[list[int]]
) -> None:
    assert words(testbed, template, phrase, *neighbours) == expected


@pytest.mark.parametrize("template", ["a{phrase}", "{phrase}s", "a photo of a ring and a{phrase}"])
def test_a_phrase_that_melts_into_other_words_is_refused(pipeline: Pipeline, template: str) -> None:
    with pytest.raises(SpecError, match="melts into other words"):
        words(pipeline, template, "ring")


def test_a_phrase_of_several_tokens_is_found_whole(pipeline: Pipeline) -> None:
    """The tiny tokenizer spells: every letter is a token."""
    assert words(pipeline, "a {phrase}", "red car", "car") == [[2, 3, 4, 5, 6, 7], [12, 13, 14]]
