"""UNets saved by latent-diffusion (CompVis) code: ESD's and AdvUnlearn's whole checkpoints, Concept Ablation's deltas."""

from __future__ import annotations

from audit.checkpoints import layouts
from audit.checkpoints.families import check_names_and_shapes
from audit.checkpoints.key_sets import LDM_PREFIX, ldm_names, matching_set, names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.tensors import BackboneTensors, LazyTensors
from audit.errors import CheckpointError


def ldm(tensors: LazyTensors, backbone: BackboneTensors, where: str, delta: bool) -> Artefact:
    """Return the artefact of a UNet by latent-diffusion names: whole, or with `delta` Concept Ablation's changed tensors."""
    if "embed" in tensors:
        raise CheckpointError(
            "the delta holds new token embeddings ('embed'), which need Concept Ablation's modified tokenizer",
            where=where,
            next_step="pass a checkpoint that changes the UNet only",
        )
    mapped = ldm_names(backbone.unet)
    used = {name: tensor for name, tensor in tensors.items() if name.startswith(LDM_PREFIX)}
    unet = {mapped.get(name, name.removeprefix(LDM_PREFIX)): tensor for name, tensor in used.items()}
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
    layout = layouts.LDM_FULL if whole else layouts.CA_LDM_DELTA
    notes = []
    if others:
        notes.append(f"{len(others)} tensors outside the UNet (VAE, text encoder, schedule) are not used")
    if any(name.startswith("model_ema.") for name in others):
        notes.append("it also holds EMA weights (model_ema.*); the other copy is used, as the erasers' own code does")
    key_set = matching_set(unet, backbone.unet)
    digest = names_sha256(used)
    return Artefact(layout, where, digest, len(used), key_set, unet=unet, whole=whole, notes=tuple(notes))
