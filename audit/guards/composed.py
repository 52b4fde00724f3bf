"""Texts that IRECE composes from a template and a concept's phrases, with the token positions of each phrase."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit.errors import SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Composed:
    """A text with the characters [begin, end) of each phrase that was put into it."""

    text: str
    spans: tuple[tuple[int, int], ...]


def compose(template: str, phrase: str, neighbours: Sequence[str] = ()) -> Composed:
    """Return the text of a template about `phrase`, its neighbours named after it; spans in the order phrase, neighbours."""
    begin = template.index("{phrase}")
    text = template.replace("{phrase}", phrase)
    spans = [(begin, begin + len(phrase))]
    for neighbour in neighbours:
        text += f" and a {neighbour}"
        spans.append((len(text) - len(neighbour), len(text)))
    return Composed(text, tuple(spans))


def positions(tokenizer: PreTrainedTokenizerBase, composed: Composed) -> list[list[int]]:
    """Return the token positions of each phrase in the text, counted with the start token; equal words elsewhere do not count.

    Raises `SpecError` for a phrase that the tokenizer does not read as words of its own.
    """
    if has_start(tokenizer):
        return [_positions(tokenizer, composed.text, *span) for span in composed.spans]
    return _t5_positions(tokenizer, composed)


def has_start(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether texts begin with a start token: CLIP's do, and T5's do not."""
    return tokenizer.bos_token is not None


def _t5_positions(tokenizer: PreTrainedTokenizerBase, composed: Composed) -> list[list[int]]:
    """Return the positions of each phrase by the characters that T5's pieces are of."""
    text, places = composed.text, tokenizer(composed.text, return_offsets_mapping=True)["offset_mapping"]
    each = []
    for begin, end in composed.spans:
        own = [number for number, (first, last) in enumerate(places) if first < end and last > begin]
        around = "".join(text[places[n][0] : begin] + text[end : places[n][1]] for n in own)
        if not own or around.strip():
            raise _melts(text, begin, end)
        each.append(own)
    return each


def _positions(tokenizer: PreTrainedTokenizerBase, text: str, begin: int, end: int) -> list[int]:
    parts = [_ids(tokenizer, part) for part in (text[:begin], text[begin:end], text[end:])]
    if [one for part in parts for one in part] != _ids(tokenizer, text):
        raise _melts(text, begin, end)
    first = 1 + len(parts[0])
    return list(range(first, first + len(parts[1])))


def _melts(text: str, begin: int, end: int) -> SpecError:
    return SpecError(
        f"the phrase {text[begin:end]!r} melts into other words in {text!r}",
        where="guard irece, template",
        next_step="separate {phrase} from the words around it with spaces",
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
