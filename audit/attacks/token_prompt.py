"""A prompt in which tokens are searched for, as the text encoders of one model read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from audit.attacks.word_filter import NO_WORDS, WordFilter
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import Encoded, body_of, encode_embeddings
from audit.diffusion.text_encoders import Clip


@dataclasses.dataclass(frozen=True)
class Slots:
    """The tokens of a prompt between start and end, with `places` for searched ones."""

    ids: tuple[int, ...]
    places: tuple[int, ...]

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens with the searched ones in their places."""
        whole = list(self.ids)
        for place, token in zip(self.places, tokens, strict=True):
            whole[place] = token
        return whole


def prefixed(pipeline: Pipeline, prompt: str, tokens: int) -> Slots:
    """Return a prompt with places for `tokens` searched ones before it.

    Raises ValueError when the text encoder cannot read them all.
    """
    own = tuple(pipeline.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    most = int(pipeline.tokenizer.model_max_length) - 2
    if tokens + len(own) > most:
        raise ValueError(f"{tokens} tokens before the {len(own)} of the prompt are more than the text encoder's {most}")
    return Slots((0,) * tokens + own, tuple(range(tokens)))


def inserted(pipeline: Pipeline, prompt: str, every: int, most: int) -> Slots:
    """Return a prompt with a place for a searched token at its beginning and behind every so many tokens, `most` at the most.

    Raises ValueError when the text encoder cannot read them all.
    """
    own = list(pipeline.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    count = min(most, len(own) // every + 1)
    longest = int(pipeline.tokenizer.model_max_length) - 2
    if len(own) + count > longest:
        raise ValueError(f"{count} tokens in the {len(own)} of the prompt are more than the text encoder's {longest}")
    places = tuple(number * (every + 1) for number in range(count))
    for place in places:
        own.insert(place, 0)
    return Slots(tuple(own), places)


class TokenPrompt:
    """A prompt with searched tokens, as the text encoders of one model read it; `words` are those that it must not hold."""

    def __init__(self, pipeline: Pipeline, slots: Slots, text: str, words: WordFilter = NO_WORDS) -> None:
        self.pipeline, self.slots, self._text, self.device = pipeline, slots, text, pipeline.device
        self._words = words
        self.clips = pipeline.encoders.clips
        sizes = {len(clip.tokenizer) for clip in self.clips}
        if len(sizes) > 1:
            raise ValueError(f"the text encoders read different vocabularies, of {sorted(sizes)} tokens")
        size = sizes.pop()
        tables = [body_of(clip.encoder).embeddings.token_embedding.weight.detach()[:size] for clip in self.clips]
        self.table = torch.cat([table.float() for table in tables], -1)
        self._unit = torch.nn.functional.normalize(self.table, dim=-1)
        special = {i for clip in self.clips for i in clip.tokenizer.all_special_ids}
        special |= {int(clip.tokenizer.pad_token_id) for clip in self.clips}
        self._special = torch.tensor(sorted(special), device=self.device)
        self._forbidden = words.tokens(pipeline.tokenizer)
        left_out = special | self._forbidden
        self.allowed = torch.tensor([i for i in range(size) if i not in left_out])

    def random(self, generator: torch.Generator) -> list[int]:
        """Draw a token for each place, uniform over those that are allowed: not special, and of no word that is forbidden."""
        return self.allowed[torch.randint(len(self.allowed), (len(self.slots.places),), generator=generator)].tolist()

    def nearest(self, embeddings: torch.Tensor) -> list[int]:
        """Return the tokens whose input embeddings are nearest to (K, D), by cosine."""
        likeness = torch.nn.functional.normalize(embeddings, dim=-1) @ self._unit.T
        likeness[:, self._special] = -torch.inf
        return likeness.argmax(-1).tolist()

    def text(self, tokens: Sequence[int]) -> str:
        """Return the prompt with these tokens as a user would type it."""
        return str(self.pipeline.tokenizer.decode(self.slots.filled(tokens), skip_special_tokens=True)).strip()

    def readable(self, several: Sequence[list[int]]) -> list[list[int]]:
        """Return those of several tokens whose text is read as exactly the same tokens, and holds no forbidden word."""
        if not several:
            return []
        texts = [self.text(tokens) for tokens in several]
        read = self.pipeline.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [
            tokens
            for tokens, text, ids in zip(several, texts, read, strict=True)
            if ids == self.slots.filled(tokens) and not self._words.holds(text)
        ]

    def usable(self, text: str) -> bool:
        """Return whether a text fits every text encoder, and holds no special token inside it and no forbidden word."""
        if not text or self._words.holds(text):
            return False
        for clip in self.clips:
            ids = clip.tokenizer(text)["input_ids"]
            unwanted = self._forbidden | set(clip.tokenizer.all_special_ids)
            if len(ids) > int(clip.tokenizer.model_max_length) or unwanted & set(ids[1:-1]):
                return False
        return True

    def states(self, tokens: Sequence[int], vectors: torch.Tensor) -> torch.Tensor:
        """Return states (1, L, D) of the prompt with these tokens, differentiable in their input embeddings `vectors` (K, D)."""
        return self.pipeline.encoders.joined(self.read(tokens, self.slots.places, vectors), [self._text])

    def read(self, tokens: Sequence[int], places: Sequence[int], vectors: torch.Tensor) -> list[Encoded]:
        """Return what each text encoder reads of the prompt with these tokens, differentiably in `vectors` (N, D).

        These are the input embeddings at N `places` of the prompt; -1 is the place of the start token.
        """
        whole = self.slots.filled(tokens)
        return [self._read(clip, whole, places, vectors) for clip in self.clips]

    def _read(self, clip: Clip, whole: Sequence[int], places: Sequence[int], vectors: torch.Tensor) -> Encoded:
        tokenizer = clip.tokenizer
        ids = [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(ids))
        given = torch.tensor([ids], device=self.device)
        embeddings = body_of(clip.encoder).embeddings.token_embedding(given).detach().clone()
        behind_start = torch.tensor(places, device=self.device) + 1
        embeddings[0, behind_start] = vectors[:, clip.columns].to(embeddings)
        return encode_embeddings(clip.encoder, given, embeddings)
