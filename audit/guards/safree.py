"""SAFREE: prompt tokens near the concept's subspace are projected away from it, for as many steps as the prompt needs.

Yoon et al. 2024, arXiv 2410.12761, in the released code's form (github jaehong31/SAFREE). With pooled embeddings as
columns, P(E) = E (E^T E)^+ E^T:

    P_C    of the concept's texts; P_I of the prompt with each of its n tokens masked in turn
    d_i  = ||(I - P_C) e_i||, e_i the pooled embedding with token i masked
    keep   token i when d_i < (1 + alpha) mean_{j != i} d_j, otherwise t_i <- (I - P_C) P_I t_i
    beta = 1 - mean cosine between the tokens and all of them projected
    edit   while step index <= round(up_t sigmoid(2 k (10 beta - t0)))          (self-validation)

A prompt of one token has no other token to be compared with, and is projected. The released code's latent re-attention is
a no-operation (see `SafreeParameters`). The official run also passes the concepts as a negative prompt: list the guard
negative-prompt beside this one for that. Without a prompt there is no token, and the guard says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from audit.diffusion.guard import Conditioning, Guard, Step
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import Tokens, encode
from audit.guards.building import Parts
from audit.guards.safree_parameters import METHOD
from audit.methods.parameters import Values

NO_PROMPT = "the null prompt has no tokens that could be filtered"


def projector(vectors: torch.Tensor) -> torch.Tensor:
    """Return the projection (D, D) onto the span of the rows of `vectors` (n, D), computed in float64."""
    columns = vectors.double().T
    projection: torch.Tensor = columns @ torch.linalg.pinv(columns.T @ columns) @ columns.T
    return projection.to(vectors.dtype)


def kept_tokens(masked: torch.Tensor, concept: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return which tokens stay (n,): those whose masking leaves the prompt no farther from the concept than the others' does.

    `masked` (n, D) are pooled embeddings with one token masked each, `concept` (D, D) is P_C.
    """
    distances = (masked - masked @ concept.T).norm(dim=1)
    others = (
        (distances.sum() - distances) / (len(distances) - 1)
        if len(distances) > 1
        else torch.full_like(distances, math.nan)
    )
    return distances < (1 + alpha) * others  # a comparison with NaN is false


def projected(tokens: torch.Tensor, concept: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """Return (I - P_C) P_I t for every row t of `tokens` (L, D)."""
    inside = tokens @ prompt.T
    return inside - inside @ concept.T


def edited_until(beta: float, up_t: float, slope: float, midpoint: float) -> int:
    """Return the last step index at which the edited prompt is used; at least 0."""
    return round(up_t / (1 + math.exp(-2 * slope * (10 * beta - midpoint))))


@dataclasses.dataclass(frozen=True)
class Edit:
    """One prompt after filtering: states (L, D), the tokens replaced, the last step index that uses them, and beta."""

    states: torch.Tensor
    replaced: tuple[str, ...]
    tokens: int
    until: int | None  # None: every step
    beta: float


class Safree(Guard):
    """The guard SAFREE: replace token states of the prompt. `pipeline` carries the text encoder of the model that is guarded."""

    name = METHOD.name
    version = METHOD.version

    def __init__(self, pipeline: Pipeline, parameters: Values) -> None:
        self._pipeline, self._p = pipeline, parameters
        self._concept: torch.Tensor | None = None
        self._edits: dict[str, Edit | None] = {}

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Filter every different prompt of the batch."""
        super().begin(conditioning, timesteps)
        self._texts = conditioning.texts
        for row, text in enumerate(conditioning.texts):
            edit = self._edit(text, conditioning.prompt[row])
            if edit is None:
                self.ledger.idle(row, NO_PROMPT)
                continue
            self.ledger.measure(row, tokens=edit.tokens, tokens_replaced=len(edit.replaced), beta=edit.beta)
            self.ledger.say(row, replaced=" ".join(edit.replaced))
            if not edit.replaced:
                self.ledger.idle(row, "no token of the prompt is near the concept")

    def condition(self, conditioning: Conditioning, step: Step) -> Conditioning:
        """Return the conditioning with the projected states of every edited prompt, while self-validation lets them act."""
        states = conditioning.prompt
        for row, text in enumerate(self._texts):
            edit = self._edits[text]
            if edit is not None and edit.replaced and (edit.until is None or step.index <= edit.until):
                if states is conditioning.prompt:
                    states = states.clone()
                states[row] = edit.states.to(states)
                self.ledger.act(row, step.timestep)
        return dataclasses.replace(conditioning, prompt=states)

    def _edit(self, text: str, states: torch.Tensor) -> Edit | None:
        if text not in self._edits:
            self._edits[text] = self._filter(text, states)
        return self._edits[text]

    def _filter(self, text: str, states: torch.Tensor) -> Edit | None:
        """Return the edit of one prompt with states (L, D); None when it has no token."""
        tokens = self._pipeline.tokens([text])
        count = tokens.lengths[0] - 2
        if count < 1:
            return None
        if self._concept is None:
            self._concept = projector(self._pooled_texts(self._p["concepts"]))
        pooled = self._pooled(self._masked(tokens, count))
        kept = kept_tokens(pooled, self._concept, self._p["alpha"])
        clean = projected(states, self._concept.to(states), projector(pooled).to(states))
        attended = slice(0, count + 2)  # start and end included
        beta = 1 - float(torch.cosine_similarity(clean[attended], states[attended], dim=-1).mean())
        merged = states.clone()
        positions = [1 + i for i in range(count) if not kept[i]]
        merged[positions] = clean[positions]
        until = edited_until(beta, self._p["up_t"], self._p["slope"], self._p["midpoint"])
        names = tokens.names(self._pipeline.tokenizer, 0)
        words = tuple(names[i] for i in positions)
        return Edit(merged, words, count, until if self._p["self_validation"] else None, beta)

    def _masked(self, tokens: Tokens, count: int) -> Tokens:
        """Return the one prompt of `tokens` `count` times, with one token masked each; learned tokens are masked like words."""
        ids = tokens.ids.repeat(count, 1)
        ids[torch.arange(count), torch.arange(1, count + 1)] = self._mask_id()
        learned = {
            (row, position): vector
            for row in range(count)
            for (_, position), vector in tokens.learned.items()
            if position != row + 1
        }
        return Tokens(ids, tokens.lengths * count, learned)

    def _mask_id(self) -> int:
        """Return the id of the mask. Entry 0 is `!` for Stable Diffusion; a vocabulary that ends texts with it needs a word."""
        if self._p["mask"] is None:
            return 0
        return int(self._pipeline.tokenizer(self._p["mask"], add_special_tokens=False)["input_ids"][0])

    @torch.no_grad()
    def _pooled(self, tokens: Tokens) -> torch.Tensor:
        """Return pooled text embeddings (B, D) of tokens (B, L), in float32."""
        pooled: torch.Tensor = encode(self._pipeline.text_encoder, tokens).pooler_output
        return pooled.float()

    def _pooled_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self._pooled(self._pipeline.tokens(texts))


def build(values: Values, parts: Parts) -> Safree:
    """Return a new SAFREE."""
    return Safree(parts.guarded, values)
