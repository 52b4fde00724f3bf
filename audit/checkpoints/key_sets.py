"""Name sets of UNet tensors: those that erasers train, and the groups of a footprint.

The sets are rules on diffusers names, so that they hold for Stable Diffusion 1.x and for the testbed alike. Their sizes
and digests for Stable Diffusion 1.4 are asserted by the tests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable

from audit.weights.single_file import DENOISER

POOLED_ENTRY = "time_text_embed.text_embedder.linear_1.weight"
LDM_PREFIX = DENOISER  # of latent-diffusion checkpoints


def names_sha256(names: Iterable[str]) -> str:
    """Return the hex SHA-256 of the sorted names joined by newlines, without a trailing one."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _module_type_is_norm(name: str) -> bool:
    """Return whether a tensor belongs to a GroupNorm or LayerNorm: their modules are the ones called `*norm*`."""
    return "norm" in name.split(".")[-2]


def is_text_attention(name: str) -> bool:
    """Return whether a module or tensor reads text: the cross-attention of a UNet, or the text's side of joint attention.

    A transformer's own attn2 is a second attention of the image to itself.
    """
    if name.startswith("transformer_blocks."):
        return ".attn.add_" in name or ".attn.to_add_out" in name
    return "attn2" in name


def is_text_key(name: str) -> bool:
    """Return whether a module or tensor makes attention's keys or values of the text."""
    keys = (
        (".attn.add_k_proj", ".attn.add_v_proj")
        if name.startswith("transformer_blocks.")
        else ("attn2.to_k", "attn2.to_v")
    )
    return any(key in name for key in keys)


def is_text_entry(name: str) -> bool:
    """Return whether a tensor is a matrix that text enters a transformer by: its states, or its pooled embeddings."""
    return name in ("context_embedder.weight", POOLED_ENTRY)


def _is_trained_by_esd(name: str) -> bool:  # parameters of Linear and Conv2d modules
    return not _module_type_is_norm(name) and name != "pos_embed.pos_embed"


_RULES: dict[str, Callable[[str], bool]] = {
    "KV": is_text_key,  # UCE, ESD-x-strict, RECE, MACE, Concept Ablation
    "XATTN": is_text_attention,  # ESD-x
    "K": lambda n: "attn2.to_k" in n,
    "V": lambda n: "attn2.to_v" in n,
    "SELF": lambda n: "attn1" in n,
    "QKVO": lambda n: re.search(r"\.to_(q|k|v|out)\.", n) is not None,  # Concept Ablation 'attn'
    "TEXT_ENTRY": is_text_entry,  # UCE of a transformer
    "ESD_U": lambda n: _is_trained_by_esd(n) and not is_text_attention(n),  # ESD-u of 2025
    "ESD_ALL": _is_trained_by_esd,
    "NOXATTN": lambda n: (
        not n.startswith(("conv_norm_out.", "conv_out.", "time_embedding.")) and not is_text_attention(n)
    ),
    "ALL": lambda n: True,
}

MEANINGS = {
    "KV": "keys and values of every attn2, or of the text in joint attention",
    "XATTN": "every attn2, or the text's side of joint attention",
    "K": "keys of every attn2",
    "V": "values of every attn2",
    "SELF": "every attn1",
    "QKVO": "every attention projection",
    "TEXT_ENTRY": "the two matrices that text enters a transformer by",
    "ESD_U": "all linear and convolution layers but attn2",
    "ESD_ALL": "all linear and convolution layers",
    "NOXATTN": "all but attn2, time embedding and output (ESD-u of 2023)",
    "ALL": "the whole network",
}


def key_set(name: str, unet_names: Iterable[str]) -> frozenset[str]:
    """Return the members of one set (a key of `MEANINGS`) among a UNet's names."""
    rule, known = _RULES[name], frozenset(unet_names)
    return frozenset(n for n in known if rule(n)) - (unread_queries(known) if name != "ALL" else frozenset())


def unread_queries(names: Collection[str]) -> frozenset[str]:
    """Return the text's queries of the last joint attention, whose answers nothing reads: no training changes them."""
    query = ".attn.add_q_proj."
    return frozenset(n for n in names if query in n and n.replace(query, ".attn.to_add_out.") not in names)


def matching_set(names: Collection[str], unet_names: Collection[str]) -> str | None:
    """Return the set that consists of exactly `names`; None when there is none."""
    wanted = frozenset(names)
    return next((name for name in _RULES if wanted and key_set(name, unet_names) == wanted), None)


def some_layers(names: Collection[str], unet_names: Collection[str]) -> tuple[str, int, int] | None:
    """Return the set of attn2 that the names form in some layers, the number of these layers, and of all.

    None when they form no such set, or one of more than half of the layers: that is an incomplete file of all layers.
    """
    layers = {_attn2(name) for name in unet_names} - {None}
    chosen = {_attn2(name) for name in names}
    if None in chosen or not 0 < 2 * len(chosen) <= len(layers):
        return None
    for rule in ("XATTN", "KV", "K", "V"):
        if {name for name in key_set(rule, unet_names) if _attn2(name) in chosen} == set(names):
            return rule, len(chosen), len(layers)
    return None


def _attn2(name: str) -> str | None:
    layer, mark, _ = name.partition(".attn2.")
    return layer if mark else None


def nearest_set(names: Collection[str], unet_names: Collection[str]) -> tuple[str, int, int]:
    """Return the set closest to `names`, how many of its members are missing, and how many of the names are not in it."""
    wanted = frozenset(names)

    def gaps(name: str) -> tuple[int, int]:
        members = key_set(name, unet_names)
        return len(members - wanted), len(wanted - members)

    best = min((name for name in _RULES if key_set(name, unet_names)), key=lambda name: sum(gaps(name)))
    return (best, *gaps(best))


def group_of(name: str) -> str:
    """Return the part of the UNet that a tensor belongs to. Every tensor is in exactly one group."""
    if is_text_key(name):
        return "attn2 keys and values"
    if is_text_attention(name):
        return "attn2 queries and outputs"
    if "attn1" in name:
        return "attn1"
    if _module_type_is_norm(name):
        return "normalisation"
    if ".ff." in name:
        return "feed-forward"
    if name.startswith("time_embedding.") or "time_emb_proj" in name:
        return "time embedding"
    return "convolutions and projections"
