"""The prompts that textual inversion trains in, through which gradients reach the embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audit.attacks.parameters import TextualInversionParameters
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import Encoded, Vocabulary, body_of, encode_embeddings
from audit.diffusion.text_encoders import Clip
from audit.spec.templates import MARK


class Prompts:
    """The training templates as the text encoders read them, with room for the learned vectors.

    With several CLIPs a vector holds the input embeddings of all of them side by side.
    """

    def __init__(self, pipeline: Pipeline, p: TextualInversionParameters) -> None:
        encoders = pipeline.encoders
        widths = [int(clip.encoder.config.hidden_size) for clip in encoders.clips]
        vocabulary = Vocabulary()
        word = vocabulary.add(torch.zeros(p.tokens, sum(widths)))
        texts = [template.replace(MARK, word) for template in p.templates]
        self.pipeline, self.device, self._encoders, self._texts = pipeline, pipeline.device, encoders, texts
        self._read = [_Template(clip, texts, vocabulary, pipeline.device) for clip in encoders.clips]
        with torch.no_grad():
            first = torch.cat([read.first(p.initial) for read in self._read], -1)
        self.initial = first.float().repeat(p.tokens, 1)

    def states(self, vectors: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Return states (R * B, L, D) for embeddings (R, n, D) in templates `which` (B,), differentiable in the embeddings."""
        used, where = torch.unique(which.to(self.device), return_inverse=True)
        texts = [self._texts[i] for i in used.tolist()] * len(vectors)
        states = self._encoders.joined([read.encoded(vectors, used) for read in self._read], texts)
        return states.unflatten(0, (len(vectors), len(used)))[:, where].flatten(0, 1)


class _Template:
    """The templates as one CLIP reads them."""

    def __init__(self, clip: Clip, texts: Sequence[str], vocabulary: Vocabulary, device: torch.device) -> None:
        tokens = clip.tokens(texts, vocabulary)
        self._clip, self._device, self._ids = clip, device, tokens.ids.to(device)
        slots = torch.full_like(tokens.ids, -1)
        for row in range(len(tokens.ids)):
            for number, position in enumerate(sorted(at for r, at in tokens.learned if r == row)):
                slots[row, position] = number
        self._slots = slots.to(device)
        with torch.no_grad():
            self._plain = body_of(clip.encoder).embeddings.token_embedding(self._ids).detach()

    def first(self, word: str) -> torch.Tensor:
        """Return the input embedding (1, D) of a word's first token."""
        ids = self._clip.tokenizer(word, add_special_tokens=False)["input_ids"]
        table = body_of(self._clip.encoder).embeddings.token_embedding
        return table(torch.tensor(ids[:1], device=self._device)).detach()

    def encoded(self, vectors: torch.Tensor, used: torch.Tensor) -> Encoded:
        """Return what the encoder reads of templates `used` (T,) with each embedding (R, n, D) in turn, (R * T, L, D)."""
        slots = self._slots[used]
        learned = vectors[..., self._clip.columns][:, slots.clamp_min(0)]  # (R, T, L, D)
        embeddings = torch.where((slots >= 0)[None, :, :, None], learned, self._plain[used][None])
        return encode_embeddings(self._clip.encoder, self._ids[used].repeat(len(vectors), 1), embeddings.flatten(0, 1))
