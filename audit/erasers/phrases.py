"""The prompts that an eraser erases, as the backbone's text encoder reads them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch

from audit import identity
from audit.diffusion.pipeline import Pipeline
from audit.errors import SpecError
from audit.spec.sections import Concept

LONGEST = 100  # bytes of a part of a file name: two of them fit into one name on every common file system


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of a concept. `word` holds the positions of the concept's tokens among the L of `states` (1, L, D)."""

    text: str
    concept: str  # name
    states: torch.Tensor
    word: range
    template: str = "{phrase}"  # that the phrase was put into
    phrase: str = ""


def phrases(concept: Concept, synonyms: bool) -> tuple[str, ...]:
    """Return the concept's phrase, followed by its synonyms when they are erased too."""
    return (concept.phrase, *(concept.synonyms if synonyms else ()))


def prompts(
    pipeline: Pipeline, concepts: Sequence[Concept], templates: Sequence[str], synonyms: bool
) -> tuple[Prompt, ...]:
    """Return every template filled with every phrase, in a fixed order, each text once.

    Raises `SpecError` when there is no concept, or a phrase has no tokens or unknown ones.
    """
    if not concepts:
        raise SpecError("no concept is named, so there is nothing to erase", next_step="name one with --concept")
    by_text: dict[str, Prompt] = {}
    for concept in concepts:
        for phrase in phrases(concept, synonyms):
            for template in templates:
                text = template.replace("{phrase}", phrase)
                if text not in by_text:
                    word = word_positions(pipeline, text, phrase)
                    by_text[text] = Prompt(text, concept.name, pipeline.encode_text([text]), word, template, phrase)
    return tuple(by_text.values())


def token_ids(pipeline: Pipeline, phrase: str, where: str = "concepts") -> list[int]:
    """Return the token ids of a phrase, without start and end.

    Raises `SpecError`, which names `where`, when there are none or one is unknown.
    """
    ids: list[int] = pipeline.tokenizer(phrase, add_special_tokens=False)["input_ids"]
    # CLIP's own vocabulary spells any byte, so a word without tokens of its own falls apart into letters instead.
    if not ids or pipeline.tokenizer.unk_token_id in ids:
        fault = "it falls into no token at all" if not ids else "part of it is unknown to its vocabulary"
        raise SpecError(
            f"the text encoder has no tokens for the phrase {phrase!r}: {fault}",
            where=where,
            next_step="use words of the backbone's vocabulary",
        )
    return ids


def word_positions(pipeline: Pipeline, text: str, phrase: str) -> range:
    """Return the positions of the phrase's last occurrence among the tokens of `text`, start token included."""
    inner, ids = token_ids(pipeline, phrase), pipeline.tokenizer(text)["input_ids"]
    for start in range(len(ids) - len(inner), 0, -1):
        if ids[start : start + len(inner)] == inner:
            return range(start, start + len(inner))
    raise SpecError(
        f"the phrase {phrase!r} melts into other words in {text!r}",
        where="templates",
        next_step="separate {phrase} from the words around it with spaces",
    )


def slug(concepts: Sequence[Concept]) -> str:
    """Return the concepts' phrases as one part of a file name."""
    return file_part(*(concept.phrase for concept in concepts))


def file_part(*texts: str) -> str:
    """Return texts as one part of a file name, spaces as underscores, as the official codes write it.

    What would not fit into a file name with others (`LONGEST` bytes) is cut and told apart by eight digits of a hash.
    """
    part = "-".join(re.sub(r"[^\w.]+", "_", text.strip()) for text in texts)
    encoded = part.encode()
    if len(encoded) <= LONGEST:
        return part
    return f"{encoded[: LONGEST - 9].decode(errors='ignore')}-{identity.key(texts)[:8]}"
