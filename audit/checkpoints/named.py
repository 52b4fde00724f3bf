"""Recognise a flat set of named tensors, whatever container it came in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from audit.checkpoints import layouts
from audit.checkpoints.families import check_denoiser, check_names_and_shapes, known_set
from audit.checkpoints.key_sets import names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.ldm_files import has_original_names, ldm
from audit.checkpoints.lora_files import is_lora, lora_artefact
from audit.checkpoints.other_methods import refuse_names
from audit.checkpoints.prefixes import without_prefixes
from audit.checkpoints.receler_adapter import PARTS
from audit.checkpoints.receler_files import merged_receler, receler_artefact
from audit.checkpoints.spm_files import is_spm, spm_artefact
from audit.checkpoints.tensors import BackboneTensors, LazyTensors, bare_text_names
from audit.errors import CheckpointError

_TEXT_STARTS = ("embeddings.", "encoder.layers.", "final_layer_norm.")
_WORDS = "embeddings.token_embedding.weight"
_ADAPTER = tuple(f".{part}" for part in PARTS)


def by_names(
    tensors: LazyTensors, metadata: object, config: Path | None, backbone: BackboneTensors, where: str
) -> Artefact:
    """Return the artefact of a flat set of named tensors. A wrapper's common prefix is removed and noted in its settings."""
    tensors, prefix = without_prefixes(tensors)
    return with_prefix(_by_names(tensors, metadata, config, backbone, where), prefix)


def with_prefix(artefact: Artefact, prefix: str) -> Artefact:
    """Return the artefact with its file's common name prefix noted in its settings."""
    return dataclasses.replace(artefact, config={**artefact.config, "prefix": prefix}) if prefix else artefact


def _by_names(
    tensors: LazyTensors, metadata: object, config: Path | None, backbone: BackboneTensors, where: str
) -> Artefact:
    refuse_names(tensors, where)
    if is_spm(metadata) and any(name.startswith("lora_unet_") for name in tensors):
        return spm_artefact(tensors, metadata, backbone, where)
    if is_lora(tensors):
        return lora_artefact(tensors, metadata, backbone, where)
    check_denoiser(tensors, backbone.unet, where)
    if any(".adapter." in name for name in tensors):
        return merged_receler(tensors, backbone, where)
    if tensors and all(name.endswith(_ADAPTER) for name in tensors):
        return receler_artefact(tensors, config, backbone, where)
    if has_original_names(tensors):
        return ldm(tensors, backbone, where, delta=False)
    bare = bare_text_names(tensors)
    if bare and all(name.startswith(_TEXT_STARTS) for name in bare):
        return text_artefact(bare, layouts.TEXT_FOLDER, backbone, where, names_sha256(tensors))
    return unet_artefact(tensors, backbone, where)


def unet_artefact(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> Artefact:
    """Return the artefact of a whole UNet or of a known part of one."""
    check_names_and_shapes(tensors, backbone.unet, where)
    key_set, notes = known_set(tensors, backbone.unet, where)
    whole = key_set == "ALL"
    layout = layouts.FULL if whole else layouts.PARTIAL
    digest = names_sha256(tensors)
    return Artefact(layout, where, digest, len(tensors), key_set, unet=tensors, whole=whole, notes=notes)


def text_artefact(
    bare: LazyTensors, layout: layouts.Layout, backbone: BackboneTensors, where: str, digest: str
) -> Artefact:
    """Return the artefact of a whole text encoder, whose names are without the prefix `text_model.`."""
    _check_vocabulary(bare, backbone, where)
    check_names_and_shapes(bare, backbone.text, where, "text encoder")
    missing = sorted(set(backbone.text) - set(bare))
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the text encoder's {len(backbone.text)} tensors are missing (e.g. {missing[0]})",
            where=where,
            next_step="get the whole checkpoint",
        )
    return Artefact(layout, where, digest, len(bare), text=bare, whole=True)


def _check_vocabulary(bare: LazyTensors, backbone: BackboneTensors, where: str) -> None:
    """Return unless the text encoder has rows for new tokens, as attacks that learn words save it (STEREO's, CCE's)."""
    if _WORDS not in bare or _WORDS not in backbone.text:
        return
    (rows, *width), (known, *known_width) = bare[_WORDS].shape or (0,), backbone.text[_WORDS].shape
    if rows > known and width == known_width:
        raise CheckpointError(
            f"its text encoder knows {rows - known} tokens more than the backbone's: words that an attack learned, as in "
            "STEREO's ci_attack_text_encoder files",
            where=where,
            next_step="pass the erased model itself (STEREO's final_reo_unet.pt), not a model that was attacked",
        )
