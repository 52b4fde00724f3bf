"""Cross-attention maps of a UNet: the places in the picture where each token of the prompt acts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch

from audit.diffusion.denoisers import Denoiser
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention, AttentionProcessor


class CrossAttentionMaps:
    """A context manager that captures the attention of every attn2 with `side` x `side` queries, or of all with `side` None.

    The predictions inside the block are those outside it, bit for bit: the layers' own processors still compute them.
    `maps` holds (B, side, side, L) by layer name, averaged over heads; L counts the tokens.
    """

    def __init__(self, unet: Denoiser, side: int | None) -> None:
        self._layers: dict[str, Attention] = {n: m for n, m in unet.named_modules() if n.endswith(".attn2")}
        self.side, self.maps = side, dict[str, torch.Tensor]()
        self._seen: set[int] = set()
        self._before: dict[str, AttentionProcessor] = {}

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._before[name] = layer.processor
            layer.processor = _Capturing(self, name, layer.processor)
        return self

    def __exit__(self, *reason: object) -> None:
        for name, layer in self._layers.items():
            layer.processor = self._before.pop(name)

    def capture(self, name: str, attention: Attention, hidden: torch.Tensor, states: torch.Tensor) -> None:
        """Keep the probabilities (B, side, side, L) of one layer, averaged over its heads."""
        self._seen.add(int(hidden.shape[1]))
        side = self.side or math.isqrt(int(hidden.shape[1]))
        if hidden.shape[1] != side**2:
            return
        query = attention.head_to_batch_dim(attention.to_q(hidden))
        key = attention.head_to_batch_dim(attention.to_k(states))
        scores = attention.get_attention_scores(query, key).float()
        averaged = scores.view(len(hidden), -1, *scores.shape[1:]).mean(1)
        self.maps[name] = averaged.view(len(hidden), side, side, -1).detach()

    def mean(self, tokens: range) -> torch.Tensor:
        """Return maps (B, side, side), averaged over layers, heads and the token positions `tokens`.

        Raises `CheckpointError` when no cross-attention layer has this many queries.
        """
        if not self.maps:
            sides = sorted({round(count**0.5) for count in self._seen})
            raise CheckpointError(
                f"no cross-attention layer has {self.side} x {self.side} queries here",
                next_step=f"use one of these sides: {', '.join(map(str, sides))}",
            )
        return torch.stack([m[..., tokens.start : tokens.stop].mean(-1) for m in self.maps.values()]).mean(0)


class _Capturing:
    """An attention processor that shows the maps to `owner` and lets the layer's own processor compute the output."""

    def __init__(self, owner: CrossAttentionMaps, name: str, inner: AttentionProcessor) -> None:
        self.owner, self.name, self.inner = owner, name, inner

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *rest: object,
        **more: object,
    ) -> torch.Tensor:
        with torch.no_grad():
            self.owner.capture(self.name, attn, hidden_states, encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, *rest, **more)
