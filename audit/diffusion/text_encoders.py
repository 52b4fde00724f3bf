"""Text as each family's network is conditioned on it: one encoder or several, their states joined, pooled ones beside them.

sd1, sd2   the final states of one CLIP
sdxl       the states before the last layer of two CLIPs side by side; pooled: the second one's projection
sd3        as sdxl, followed by T5's states (zeros where there is no T5); pooled: both projections
flux       T5's states; pooled: CLIP's state at the end token
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from audit.diffusion.denoisers import with_pooled
from audit.diffusion.placeholder_tokens import Encoded, Tokens, Vocabulary, encode, tokenize, without_learned
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import T5TokenizerFast

Family: TypeAlias = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A CLIP text encoder with its tokenizer. Of learned embeddings it reads the columns `columns`, its own."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel | CLIPTextModelWithProjection
    columns: slice = dataclasses.field(default_factory=lambda: slice(None))

    def tokens(self, texts: Sequence[str], vocabulary: Vocabulary) -> Tokens:
        """Return texts as tokens (B, L). Raises `CheckpointError` for one that is too long."""
        tokens = tokenize(self.tokenizer, texts, vocabulary)
        own = {place: vector[self.columns] for place, vector in tokens.learned.items()}
        return dataclasses.replace(tokens, learned=own)

    def read(self, texts: Sequence[str], vocabulary: Vocabulary) -> Encoded:
        """Return the encoder's states of texts."""
        return encode(self.encoder, self.tokens(texts, vocabulary))


@dataclasses.dataclass(frozen=True)
class T5:
    """A T5 encoder that reads `length` tokens. Without weights (`encoder` None) its states are zeros of `width`.

    It has no learned embeddings: learned words are left out of what it reads.
    """

    tokenizer: T5TokenizerFast | None
    encoder: T5EncoderModel | None
    length: int
    width: int

    def states(self, texts: Sequence[str], device: torch.device) -> torch.Tensor:
        """Return states (B, length, width) of texts. Raises `CheckpointError` for one that is too long."""
        if self.encoder is None or self.tokenizer is None:
            return torch.zeros(len(texts), self.length, self.width, device=device)
        plain = [without_learned(text) if "<learned-" in text else text for text in texts]
        given = self.tokenizer(plain, padding="max_length", max_length=self.length, return_tensors="pt")["input_ids"]
        if given.shape[1] > self.length:
            raise CheckpointError(
                f"a prompt needs {given.shape[1]} tokens and T5 reads {self.length}", next_step="shorten the prompt"
            )
        return self.encoder(given.to(device))[0].float()


@dataclasses.dataclass(frozen=True)
class TextEncoders:
    """All that reads text for one family. With `null_is_zero`, the empty text is all zeros, as SDXL was trained."""

    family: Family
    clips: tuple[Clip, ...]
    t5: T5 | None = None
    null_is_zero: bool = False

    def states(self, texts: Sequence[str], vocabulary: Vocabulary) -> torch.Tensor:
        """Return the states (B, L, D) that condition the network, in float32; pooled embeddings are the last row."""
        read = [clip.read(texts, vocabulary) for clip in self.clips]
        states = self.joined(read, texts)
        if self.null_is_zero:
            empty = torch.tensor([text == "" for text in texts], device=states.device)
            states = torch.where(empty[:, None, None], torch.zeros_like(states), states)
        return states

    def joined(self, read: Sequence[Encoded], texts: Sequence[str]) -> torch.Tensor:
        """Return the network's conditioning from what each CLIP read, differentiably in it; T5 reads `texts`."""
        device = read[0].last_hidden_state.device
        match self.family:
            case "sd1" | "sd2":
                return read[0].last_hidden_state.float()
            case "sdxl":
                states = torch.cat([one.penultimate.float() for one in read], -1)
                return with_pooled(states, _projected(read[-1]))
            case "sd3":
                states = torch.cat([one.penultimate.float() for one in read], -1)
                pooled = torch.cat([_projected(one) for one in read], -1)
                assert self.t5 is not None
                padded = torch.nn.functional.pad(states, (0, self.t5.width - states.shape[-1]))
                return with_pooled(torch.cat([padded, self.t5.states(texts, device)], 1), pooled)
            case "flux":
                assert self.t5 is not None
                return with_pooled(self.t5.states(texts, device), read[0].pooler_output.float())


def _projected(read: Encoded) -> torch.Tensor:
    assert read.projected is not None  # of an encoder with a projection
    return read.projected.float()
