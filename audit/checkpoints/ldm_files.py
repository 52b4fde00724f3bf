"""Denoisers by their authors' names: ESD's and AdvUnlearn's whole checkpoints, Concept Ablation's deltas, models in one file."""

from __future__ import annotations

from collections.abc import Collection

from audit.checkpoints import layouts
from audit.checkpoints.families import check_names_and_shapes, is_transformer
from audit.checkpoints.key_sets import LDM_PREFIX, matching_set, names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.tensors import BackboneTensors, LazyTensors, in_pieces
from audit.errors import CheckpointError
from audit.weights import original_names
from audit.weights.single_file import denoiser_pieces

_BARE = ("input_blocks.", "joint_blocks.", "double_blocks.")


def has_original_names(tensors: Collection[str]) -> bool:
    """Return whether the names are those of a UNet's or a transformer's authors, with or without their prefix."""
    return any(name.startswith((LDM_PREFIX, *_BARE)) for name in tensors)


def ldm(tensors: LazyTensors, backbone: BackboneTensors, where: str, delta: bool) -> Artefact:
    """Return the artefact of a denoiser by its authors' names: whole, or with `delta` Concept Ablation's changed tensors."""
    if "embed" in tensors:
        raise CheckpointError(
            "the delta holds new token embeddings ('embed'), which need Concept Ablation's modified tokenizer",
            where=where,
            next_step="pass a checkpoint that changes the UNet only",
        )
    prefix = LDM_PREFIX if any(name.startswith(LDM_PREFIX) for name in tensors) else ""
    used = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    unet = _renamed(used, prefix, backbone)
    check_names_and_shapes(unet, backbone.unet, where)
    whole = len(unet) == len(backbone.unet)
    others = sorted(set(tensors) - set(used))
    if not whole and (others or not delta):
        extra = f", and it holds {others[0]} besides it" if others else ""
        raise CheckpointError(
            f"{len(backbone.unet) - len(unet)} tensors of the UNet are missing{extra}",
            where=where,
            next_step="get the whole checkpoint",
        )
    layout = layouts.CA_LDM_DELTA
    if whole:
        layout = layouts.ORIGINAL if is_transformer(backbone.unet) else layouts.LDM_FULL
    notes = []
    if others:
        notes.append(f"{len(others)} tensors outside the UNet (VAE, text encoder, schedule) are not used")
    if any(name.startswith("model_ema.") for name in others):
        notes.append("it also holds EMA weights (model_ema.*); the other copy is used, as the erasers' own code does")
    key_set = matching_set(unet, backbone.unet)
    digest = names_sha256(used)
    return Artefact(layout, where, digest, len(used), key_set, unet=unet, whole=whole, notes=tuple(notes))


def _renamed(tensors: LazyTensors, prefix: str, backbone: BackboneTensors) -> LazyTensors:
    """Return tensors by diffusers' names. A name that is not known keeps its spelling, without the prefix."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    pieces = denoiser_pieces(shapes) if is_transformer(backbone.unet) else None
    if pieces is not None:
        return in_pieces(tensors, pieces)
    resnets = [n for n in backbone.unet if n.startswith("down_blocks.") and ".resnets." in n]
    layers = 1 + max((int(name.split(".")[3]) for name in resnets), default=0)
    return {original_names.unet_name(name.removeprefix(prefix), layers): tensor for name, tensor in tensors.items()}
