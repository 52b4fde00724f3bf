"""Learned tokens: input embeddings that stand in a prompt as words, without any change to tokenizer or text encoder.

A learned embedding (n, D) is written into a prompt as one word, `<learned-...>`, which names it by its own content: texts
that differ in their embedding differ as texts, so whatever is cached by text stays right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.masking_utils import create_causal_mask

from audit.errors import CheckpointError

ClipEncoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection
_WORD = re.compile(r"<learned-[0-9a-f]{16}>")


class Vocabulary:
    """Learned embeddings by the word that stands for them, of one process."""

    def __init__(self) -> None:
        self._vectors: dict[str, torch.Tensor] = {}

    def add(self, vectors: torch.Tensor) -> str:
        """Add `vectors` (n, D) or (D,); return the word that stands for them in prompts."""
        kept = vectors.detach().float().cpu().contiguous()
        kept = kept[None] if kept.dim() == 1 else kept
        word = f"<learned-{hashlib.sha256(kept.numpy().tobytes()).hexdigest()[:16]}>"
        self._vectors[word] = kept
        return word

    def vectors(self, word: str) -> torch.Tensor:
        """Return the embedding (n, D) behind a word. Raises KeyError for one that was never added."""
        return self._vectors[word]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Prompts as the text encoder reads them.

    `ids` (B, L) are padded; at learned positions they hold `filler`. `lengths` counts start and end too. `learned` maps
    (row, position) to its input embedding (D,).
    """

    ids: torch.Tensor
    lengths: tuple[int, ...]
    learned: dict[tuple[int, int], torch.Tensor]

    def names(self, tokenizer: CLIPTokenizer, row: int) -> list[str]:
        """Return the tokens of one row as words, start and end included; learned ones are called `<learned>`."""
        ids = self.ids[row, : self.lengths[row]].tolist()
        words = [str(tokenizer.convert_ids_to_tokens(i)).removesuffix("</w>") for i in ids]
        return ["<learned>" if (row, i) in self.learned else word for i, word in enumerate(words)]


def has_learned(text: str) -> bool:
    """Return whether a text holds a learned word."""
    return _WORD.search(text) is not None


def without_learned(text: str) -> str:
    """Return the text without its learned words."""
    return " ".join(_WORD.sub(" ", text).split())


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str], vocabulary: Vocabulary) -> Tokens:
    """Return prompts as tokens (B, L), L the text encoder's length. Raises `CheckpointError` for a text that is longer."""
    length = int(tokenizer.model_max_length)
    rows: list[list[int]] = []
    lengths: list[int] = []
    learned: dict[tuple[int, int], torch.Tensor] = {}
    for number, text in enumerate(texts):
        if has_learned(text):
            ids, vectors = _spliced(tokenizer, text, vocabulary)
        else:
            ids, vectors = list(tokenizer(text)["input_ids"]), {}
        if len(ids) > length:
            raise CheckpointError(
                f"a prompt needs {len(ids)} tokens and the text encoder reads {length}", next_step="shorten the prompt"
            )
        lengths.append(len(ids))
        rows.append(ids + [tokenizer.pad_token_id] * (length - len(ids)))
        learned |= {(number, position): vector for position, vector in vectors.items()}
    return Tokens(torch.tensor(rows, dtype=torch.long), tuple(lengths), learned)


def _spliced(tokenizer: CLIPTokenizer, text: str, vocabulary: Vocabulary) -> tuple[list[int], dict[int, torch.Tensor]]:
    """Return token ids with start and end, and the input embeddings of the learned ones by position."""
    ids: list[int] = [tokenizer.bos_token_id]
    learned: dict[int, torch.Tensor] = {}
    words = [*_WORD.findall(text), None]
    for part, word in zip(_WORD.split(text), words, strict=True):
        if part.strip():
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
        if word is not None:
            for vector in vocabulary.vectors(word):
                learned[len(ids)] = vector
                ids.append(filler(tokenizer))
    return [*ids, tokenizer.eos_token_id], learned


def filler(tokenizer: CLIPTokenizer) -> int:
    """Return the id that stands at learned positions; its embedding is never read.

    It must not be the end token, by which the encoder finds what it pools; some find that as the highest id.
    """
    return next(i for i in range(3) if i not in (tokenizer.eos_token_id, tokenizer.bos_token_id))


def encode(encoder: ClipEncoder, tokens: Tokens) -> Encoded:
    """Return what the encoder reads of `tokens`."""
    device = next(encoder.parameters()).device
    ids = tokens.ids.to(device)
    if tokens.learned:
        embeddings = body_of(encoder).embeddings.token_embedding(ids)
        for (row, position), vector in tokens.learned.items():
            embeddings[row, position] = vector.to(embeddings)
        return encode_embeddings(encoder, ids, embeddings)
    with _penultimate(encoder) as before:
        output = encoder(ids)
    return _encoded(encoder, output.last_hidden_state, before, ids)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A CLIP's states (B, L, D): final ones and those before the last layer; pooled (B, D) at each text's end token.

    `projected` (B, P) is the pooled one through the encoder's projection, None where it has none.
    """

    last_hidden_state: torch.Tensor
    penultimate: torch.Tensor
    pooler_output: torch.Tensor
    projected: torch.Tensor | None


def body_of(encoder: ClipEncoder) -> CLIPTextModel:
    """Return the transformer of a CLIP text encoder, without its projection."""
    body: CLIPTextModel = getattr(encoder, "text_model", encoder)
    return body


def encode_embeddings(encoder: ClipEncoder, ids: torch.Tensor, embeddings: torch.Tensor) -> Encoded:
    """Run the encoder's forward from input embeddings (B, L, D) on, differentiably.

    `ids` (B, L) only say where texts end.
    """
    body = body_of(encoder)
    hidden = body.embeddings(inputs_embeds=embeddings)
    mask = create_causal_mask(config=body.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None)
    with _penultimate(encoder) as before:
        states = body.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True).last_hidden_state
    return _encoded(encoder, body.final_layer_norm(states), before, ids)


def _encoded(encoder: ClipEncoder, states: torch.Tensor, before: list[torch.Tensor], ids: torch.Tensor) -> Encoded:
    # An end token that a configuration of 2023 and before calls 2 is the highest id of the vocabulary.
    end = body_of(encoder).eos_token_id
    ends = ids.argmax(1) if end == 2 else (ids == end).int().argmax(1)
    pooled = states[torch.arange(len(ids), device=ids.device), ends]
    projection = getattr(encoder, "text_projection", None)
    return Encoded(states, before[0], pooled, projection(pooled) if projection is not None else None)


@contextlib.contextmanager
def _penultimate(encoder: ClipEncoder) -> Iterator[list[torch.Tensor]]:
    """Collect the input of the last layer inside the block."""
    seen: list[torch.Tensor] = []
    last = body_of(encoder).encoder.layers[-1]
    hook = last.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()
