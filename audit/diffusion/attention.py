"""Attention maps of a network: the places in the picture where each token of the prompt acts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch

from audit.diffusion.denoisers import Denoiser
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention, AttentionProcessor


class CrossAttentionMaps:
    """A context manager that captures attention to text, of layers with `side` x `side` queries, or of all with `side` None.

    Layers are every attn2 of a UNet, and every joint attention of a transformer. There, image tokens attend to image and text
    in one softmax, and the text's part of it is kept. The predictions inside the block are those outside it, bit for bit:
    the layers' own processors still compute them.
    `maps` holds (B, side, side, L) by layer name, averaged over heads; L counts the tokens.
    """

    def __init__(self, unet: Denoiser, side: int | None) -> None:
        self._layers: dict[str, Attention] = {
            name: module
            for name, module in unet.named_modules()
            if (name.endswith(".attn2") and not _is_joint(module)) or (name.endswith(".attn") and _is_joint(module))
        }
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
        averaged = (_joint if _is_joint(attention) else _crossed)(attention, hidden, states)
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


def _is_joint(attention: torch.nn.Module) -> bool:
    return getattr(attention, "add_k_proj", None) is not None


def _crossed(attention: Attention, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return the probabilities (B, N, L) of a cross-attention, averaged over heads."""
    query = attention.head_to_batch_dim(attention.to_q(hidden))
    key = attention.head_to_batch_dim(attention.to_k(states))
    scores = attention.get_attention_scores(query, key).float()
    return scores.view(len(hidden), -1, *scores.shape[1:]).mean(1)


def _joint(attention: Attention, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return the text's part (B, N, L) of a joint attention's probabilities for image queries, averaged over heads."""

    def heads(projected: torch.Tensor, norm: torch.nn.Module | None) -> torch.Tensor:
        split = projected.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        return split if norm is None else norm(split)

    query = heads(attention.to_q(hidden), attention.norm_q)
    image = heads(attention.to_k(hidden), attention.norm_k)
    text = heads(attention.add_k_proj(states), attention.norm_added_k)
    scores = query @ torch.cat([image, text], 2).transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.float().softmax(-1)[..., image.shape[2] :].mean(1)


class _Capturing:
    """An attention processor that shows the maps to `owner` and lets the layer's own processor compute the output."""

    def __init__(self, owner: CrossAttentionMaps, name: str, inner: AttentionProcessor) -> None:
        self.owner, self.name, self.inner = owner, name, inner

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        *rest: object,
        **more: object,
    ) -> torch.Tensor:
        if encoder_hidden_states is not None:
            with torch.no_grad():
                self.owner.capture(self.name, attn, hidden_states, encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, *rest, **more)
