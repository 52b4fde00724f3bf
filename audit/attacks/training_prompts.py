"""The prompts that textual inversion trains in, through which gradients reach the embedding."""

from __future__ import annotations

import torch

from audit.attacks.parameters import TextualInversionParameters
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import Vocabulary, encode_embeddings, tokenize
from audit.spec.templates import MARK


class Prompts:
    """The training templates as a text encoder reads them, with room for the learned vectors."""

    def __init__(self, pipeline: Pipeline, p: TextualInversionParameters) -> None:
        vocabulary, width = Vocabulary(), pipeline.text_encoder.config.hidden_size
        word = vocabulary.add(torch.zeros(p.tokens, width))
        tokens = tokenize(pipeline.tokenizer, [t.replace(MARK, word) for t in p.templates], vocabulary)
        self.pipeline, self.device = pipeline, pipeline.device
        self._encoder = pipeline.text_encoder
        self._ids = tokens.ids.to(self.device)
        self._slots = torch.full_like(tokens.ids, -1)
        for row in range(len(tokens.ids)):
            for number, position in enumerate(sorted(at for r, at in tokens.learned if r == row)):
                self._slots[row, position] = number
        self._slots = self._slots.to(self.device)
        with torch.no_grad():
            self._plain = self._encoder.embeddings.token_embedding(self._ids).detach()
            ids = pipeline.tokenizer(p.initial, add_special_tokens=False)["input_ids"]
            first = self._encoder.embeddings.token_embedding(torch.tensor(ids[:1], device=self.device))
        self.initial = first.detach().float().repeat(p.tokens, 1)

    def states(self, vectors: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Return states (R * B, L, D) for embeddings (R, n, D) in templates `which` (B,), differentiable in the embeddings."""
        used, where = torch.unique(which.to(self.device), return_inverse=True)
        slots = self._slots[used]
        learned = vectors[:, slots.clamp_min(0)]  # (R, T, L, D)
        embeddings = torch.where((slots >= 0)[None, :, :, None], learned, self._plain[used][None])
        ids = self._ids[used].repeat(len(vectors), 1)
        states = encode_embeddings(self._encoder, ids, embeddings.flatten(0, 1)).last_hidden_state
        return states.unflatten(0, (len(vectors), len(used)))[:, where].flatten(0, 1)
