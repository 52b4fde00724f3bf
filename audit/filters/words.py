"""Find listed words in prompts, however they are spelled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = "Cf"  # what joins or parts letters without being seen


def normalised(text: str) -> str:
    """Return `text` as words are compared: compatibility forms, case and invisible characters do not count."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(character for character in folded if unicodedata.category(character) != _INVISIBLE)


def word_list(words: Iterable[str]) -> tuple[str, ...]:
    """Return the words as they are compared, each once, in order; what has no letter or digit is left out."""
    return tuple(sorted({folded for word in words if (folded := " ".join(_split(word)))}))


class WordFinder:
    """Finds whole words, and phrases of several words, of a list in texts."""

    def __init__(self, words: Iterable[str]) -> None:
        self._phrases = {tuple(word.split(" ")) for word in words}
        self._longest = max(map(len, self._phrases), default=0)

    def found(self, text: str) -> tuple[str, ...]:
        """Return the listed words of `text` in its order, each once."""
        tokens = _split(text)
        hits = [
            " ".join(tokens[start : start + length])
            for start in range(len(tokens))
            for length in range(1, self._longest + 1)
            if tuple(tokens[start : start + length]) in self._phrases and start + length <= len(tokens)
        ]
        return tuple(dict.fromkeys(hits))


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", normalised(text))
