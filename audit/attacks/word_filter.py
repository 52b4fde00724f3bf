"""Words that a prompt must not hold, as a word filter in front of a model reads it, and the tokens that would bring them."""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable

from transformers import CLIPTokenizer

_LEAST = 3  # letters of a phrase's word: shorter ones are articles and prepositions
# CLIP reads every digit and every run of signs as words of their own: what is typed as `18+` is decoded as `1 8 +`.
_APART = re.compile(r" ?([^\w ]|[\d_]) ?")


@dataclasses.dataclass(frozen=True)
class WordFilter:
    """Words in lower case, of which a text must contain none, not even inside another word."""

    words: tuple[str, ...] = ()

    def holds(self, text: str) -> bool:
        """Return whether a text contains one of the words, however it is cased, its letters are shaped, or its digits and
        signs are spaced.
        """
        joined = _joined(text)
        return any(word in joined for word in self._joined_words)

    @functools.cached_property
    def _joined_words(self) -> tuple[str, ...]:
        return tuple(map(_joined, self.words))

    def tokens(self, tokenizer: CLIPTokenizer) -> set[int]:
        """Return the tokens that contain one of the words, and those of several letters that the words themselves consist of."""
        if not self.words:
            return set()
        texts = _vocabulary(tokenizer)
        parts = {part for word in self.words for part in word.split() if len(part) >= _LEAST}
        pieces = {token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]}
        return {
            token for token, text in enumerate(texts) if self.holds(text) or (token in pieces and len(_plain(text)) > 1)
        }


NO_WORDS = WordFilter()


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: CLIPTokenizer) -> tuple[str, ...]:
    """Return the text of each token: tens of thousands, which each search of a model asks for."""
    return tuple(str(tokenizer.decode([token])).strip() for token in range(len(tokenizer)))


def filter_of(phrases: Iterable[str], further: Iterable[str] = ()) -> WordFilter:
    """Return the filter of phrases, each whole and each of its words of three letters or more, and of `further` words."""
    whole = [_plain(phrase) for phrase in phrases]
    parts = [part for phrase in whole for part in phrase.split() if len(part) >= _LEAST]
    return WordFilter(tuple(dict.fromkeys([*whole, *parts, *map(_plain, further)])))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _joined(text: str) -> str:
    return _APART.sub(r"\1", _plain(text))
