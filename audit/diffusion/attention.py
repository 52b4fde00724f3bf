"""Attention maps of a network: the places in the picture where each token of the prompt acts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self, TypeAlias, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention

from audit.diffusion.denoisers import Denoiser
from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention, AttentionProcessor

Rotation: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # cosine and sine (L + N, D) of each token's place


class CrossAttentionMaps:
    """A context manager that captures attention to text, of layers with `side` x `side` queries, or of all with `side` None.

    Layers are every attn2 of a UNet, and every attention of a transformer that text takes part in, Flux's single stream among
    them. There, image tokens attend to image and text in one softmax, and the text's part of it is kept. The predictions inside
    the block are those outside it, bit for bit: the layers' own processors still compute them.
    `maps` holds (B, side, side, L) by layer name, averaged over heads; L counts the tokens.
    """

    def __init__(self, unet: Denoiser, side: int | None) -> None:
        self._layers: dict[str, Attention | FluxAttention] = {
            name: module for name, module in unet.named_modules() if _reads_text(name, module)
        }
        self.side, self.maps = side, dict[str, torch.Tensor]()
        self._seen: set[int] = set()
        self._text = 0  # tokens of the text, which a single stream does not tell from the image's
        self._before: dict[str, AttentionProcessor] = {}

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._before[name] = layer.processor
            kind = _CapturingRotated if isinstance(layer, FluxAttention) else _Capturing
            layer.processor = kind(self, name, layer.processor)
        return self

    def __exit__(self, *reason: object) -> None:
        for name, layer in self._layers.items():
            layer.processor = self._before.pop(name)

    def capture(self, name: str, attention: Attention, hidden: torch.Tensor, states: torch.Tensor) -> None:
        """Keep the probabilities (B, side, side, L) of one layer, averaged over its heads."""
        side = self._side(int(hidden.shape[1]))
        if side is not None:
            averaged = (_joint if _is_joint(attention) else _crossed)(attention, hidden, states)
            self.maps[name] = averaged.view(len(hidden), side, side, -1).detach()

    def capture_rotated(
        self, name: str, attention: FluxAttention, hidden: torch.Tensor, states: torch.Tensor | None, places: Rotation
    ) -> None:
        """Keep the probabilities of one of Flux's layers. Without `states`, `hidden` begins with the text, as elsewhere."""
        self._text = self._text if states is None else int(states.shape[1])
        side = self._side(int(hidden.shape[1]) - (self._text if states is None else 0))
        if side is not None:
            averaged = _rotated(attention, hidden, states, places, self._text)
            self.maps[name] = averaged.view(len(hidden), side, side, -1).detach()

    def _side(self, queries: int) -> int | None:
        """Return the side of a layer's square grid of queries; None when it is not to be kept."""
        self._seen.add(queries)
        side = self.side or math.isqrt(queries)
        return side if side**2 == queries else None

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


def _reads_text(name: str, module: torch.nn.Module) -> bool:
    if isinstance(module, FluxAttention):
        return True
    return (name.endswith(".attn2") and not _is_joint(module)) or (name.endswith(".attn") and _is_joint(module))


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


def _rotated(
    attention: FluxAttention, hidden: torch.Tensor, states: torch.Tensor | None, places: Rotation, text: int
) -> torch.Tensor:
    """Return the text's part (B, N, L) of the probabilities of Flux's image queries, averaged over heads.

    Its tokens stand text first and are rotated by their places.
    """

    def heads(projected: torch.Tensor, norm: torch.nn.Module, rotation: Rotation) -> torch.Tensor:
        split = norm(projected.unflatten(-1, (-1, attention.head_dim)))
        return apply_rotary_emb(split, rotation, sequence_dim=1).transpose(1, 2)

    before, after = (places[0][:text], places[1][:text]), (places[0][text:], places[1][text:])
    image = hidden if states is not None else hidden[:, text:]
    query = heads(attention.to_q(image), attention.norm_q, after)
    own = heads(attention.to_k(image), attention.norm_k, after)
    if states is not None:
        read = heads(attention.add_k_proj(states), attention.norm_added_k, before)
    else:
        read = heads(attention.to_k(hidden[:, :text]), attention.norm_k, before)
    scores = query @ torch.cat([read, own], 2).transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.float().softmax(-1)[..., :text].mean(1)


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


class _CapturingRotated(_Capturing):
    """The same for Flux's layers, which are told a mask and the tokens' places after the states."""

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        *rest: object,
        **more: object,
    ) -> torch.Tensor:
        _, places = rest
        with torch.no_grad():
            self.owner.capture_rotated(self.name, attn, hidden_states, encoder_hidden_states, cast(Rotation, places))
        return self.inner(attn, hidden_states, encoder_hidden_states, *rest, **more)
