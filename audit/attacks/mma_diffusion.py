"""MMA-Diffusion, its text modality: a prompt that the text encoder pools as it pools the target, without the target's words.

Yang et al. 2024, "MMA-Diffusion: MultiModal Attack on Diffusion Models", CVPR, arXiv 2311.17516; official code
cure-lab/MMA-Diffusion (src/textual_attack.py). Black box to the diffusion model, of which the backbone's text encoder alone is
asked, with its gradients. For a target prompt p and f the text encoder's state at the end token:

    x* = argmin over K tokens x of L(x) = 1 - cos(f(x), f(p))        no token, and no text, of a sensitive word

Each step is one of GCG (Zou et al. 2023, arXiv 2307.15043). With one-hot tokens o (K, V) and input embeddings E (V, D):

    g = dL/do = dL/d(oE) E^T        candidates: one token of x replaced by one of the `top_k` with the least g at its place

Places are taken equally often, tokens at random. The candidate with the least L is the next x, even where L rises; the answer is
the best of all steps. The search begins with random letters.

A candidate counts only where its text reads as exactly its tokens, so that what is found is what a user types; the official code
asks that the text has as many tokens. Sensitive are the concept's phrase and its synonyms, whole and word by word, and `words`.
The presets called official take the gradient of a place from the place before it, as that code does: it counts the start token
as the first of x. With several CLIPs, L is the mean over them and g their sum; T5 takes no part.

Its control is in the same unit: as many random tokens out of the same vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import safetensors.torch
import torch

from audit import identity
from audit.attacks.prompt_search import Best, PromptSearch
from audit.attacks.protocol import Found, Search
from audit.attacks.token_prompt import TokenPrompt, prefixed
from audit.attacks.token_search_parameters import MmaParameters
from audit.attacks.token_search_unit import run_searches
from audit.attacks.word_filter import filter_of
from audit.diffusion.placeholder_tokens import Encoded

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class SubstitutionSearch(PromptSearch):
    """The search for tokens that the text encoders pool as they pool `target`; no more than `rows` texts are encoded at once."""

    measure: ClassVar[str] = "cosine distance"

    def __init__(self, prompt: TokenPrompt, target: str, seed: int, p: MmaParameters, rows: int) -> None:
        super().__init__(prompt, seed, p.iterations, 1)
        self.p, self.rows, self._evaluations = p, rows, 0
        with torch.no_grad():
            self.target = [read.pooler_output.float() for read in self._encoded([target])]
        start, letters = self.generator("start", 0), self._letters()
        self.tokens = letters[torch.randint(len(letters), (p.tokens,), generator=start)].tolist()

    @property
    def evaluations(self) -> int:
        """The candidates that the search has encoded so far."""
        return self._evaluations

    def present(self) -> list[int]:
        """Return the tokens that the last step chose."""
        return list(self.tokens)

    def gradient(self) -> torch.Tensor:
        """Return g (K, V), the gradient of the loss in the one-hot tokens."""
        places, tokens = self.prompt.slots.places, self.tokens
        if self.p.shifted:
            places = tuple(place - 1 for place in places)
            tokens = [self.prompt.pipeline.tokenizer.bos_token_id, *tokens[:-1]]
        vectors = self.prompt.table[tokens].clone().requires_grad_()
        with torch.enable_grad():
            (loss,) = self._distances(self.prompt.read(self.tokens, places, vectors))
            (gradient,) = torch.autograd.grad(loss, vectors)
        return gradient @ self.prompt.table.T

    def candidates(self, gradient: torch.Tensor, generator: torch.Generator) -> list[list[int]]:
        """Return candidates, each with one other token than the present ones and readable, for a gradient (K, V)."""
        scores = gradient.cpu()[:, self.prompt.allowed]
        best = scores.topk(min(self.p.top_k, scores.shape[1]), dim=1, largest=False).indices
        places = torch.arange(self.p.candidates) * self.p.tokens // self.p.candidates
        ranks = torch.randint(best.shape[1], (self.p.candidates,), generator=generator)
        chosen = torch.tensor(self.tokens).repeat(self.p.candidates, 1)
        chosen[torch.arange(self.p.candidates), places] = self.prompt.allowed[best[places, ranks]]
        different = {tuple(tokens): tokens for tokens in chosen.tolist() if tokens != self.tokens}
        return self.prompt.readable(list(different.values()))

    @torch.no_grad()
    def losses(self, texts: Sequence[str]) -> torch.Tensor:
        """Return L (B,) of prompts, read as text, infinite where the text encoder gives no number."""
        parts = [texts[start : start + self.rows] for start in range(0, len(texts), self.rows)]
        return torch.cat([self._distances(self._encoded(part)).cpu() for part in parts]).nan_to_num(nan=math.inf)

    def loss_of(self, text: str) -> float:
        """Return L of one prompt."""
        return float(self.losses([text])[0])

    def step(self) -> None:
        """Take the best of the candidates; without any, the next step draws others."""
        candidates = self.candidates(self.gradient(), self.generator("candidates", self.done))
        if candidates:
            self.tokens = candidates[int(self.losses([self.prompt.text(one) for one in candidates]).argmin())]
        self._evaluations += len(candidates)
        self.done += 1

    def dump(self) -> bytes:
        """Return the state as safetensors bytes."""
        numbers = [self.done, self._evaluations, self.best.loss, self.first]
        return safetensors.torch.save(
            {
                "tokens": torch.tensor(self.tokens),
                "best": torch.tensor(self.best.tokens, dtype=torch.long),
                "numbers": torch.tensor(numbers, dtype=torch.float64),
            }
        )

    def restore(self, data: bytes) -> None:
        """Continue from what `dump` wrote. Raises KeyError, ValueError or safetensors' own error for anything else."""
        parts = safetensors.torch.load(data)
        tokens, best, (done, evaluations, loss, first) = parts["tokens"], parts["best"], parts["numbers"].tolist()
        if len(tokens) != len(self.tokens):
            raise ValueError("it has another number of tokens")
        self.tokens, self.best, self.first = tokens.tolist(), Best(best.tolist(), loss), first
        self.done, self._evaluations = int(done), int(evaluations)

    def _letters(self) -> torch.Tensor:
        tokenizer = self.prompt.pipeline.tokenizer
        read = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in _LETTERS]
        letters = torch.tensor([ids[0] for ids in read if len(ids) == 1])
        return letters[torch.isin(letters, self.prompt.allowed)]

    def _encoded(self, texts: Sequence[str]) -> list[Encoded]:
        pipeline = self.prompt.pipeline
        return [clip.read(texts, pipeline.vocabulary) for clip in self.prompt.clips]

    def _distances(self, read: Sequence[Encoded]) -> torch.Tensor:
        cosines = [
            torch.cosine_similarity(one.pooler_output.float(), target, dim=1, eps=1e-6)
            for one, target in zip(read, self.target, strict=True)
        ]
        return 1 - torch.stack(cosines).mean(0)


def run(search: Search) -> Found:
    """Search a prompt for each item, and draw random tokens for each control; a failed item keeps its row, with the reason."""
    return run_searches(search, MmaParameters.model_validate(search.parameters), search_of)


def search_of(search: Search, number: int) -> SubstitutionSearch:
    """Return the search of one number at its beginning."""
    p, concept, pipeline = MmaParameters.model_validate(search.parameters), search.concept, search.models.pipeline
    words = filter_of((concept.phrase, *concept.synonyms), p.words)
    prompt = TokenPrompt(pipeline, prefixed(pipeline, "", p.tokens), "", words)
    seed = identity.int_key({"seed": search.seed, "number": number})
    return SubstitutionSearch(prompt, p.prompt_of(concept.phrase), seed, p, search.batch_size)
