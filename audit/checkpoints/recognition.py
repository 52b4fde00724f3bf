"""Recognise a checkpoint from its content alone; file names and suffixes decide nothing.

Folders are recognised by their files, safetensors by their header, and pickles by their top-level keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from audit.checkpoints import layouts, pickles
from audit.checkpoints.families import check_denoiser, check_names_and_shapes
from audit.checkpoints.footprint import same
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.lora_files import lora_artefact
from audit.checkpoints.named import by_names, unet_artefact
from audit.checkpoints.peft_files import is_peft
from audit.checkpoints.receler_files import merged_receler
from audit.checkpoints.stored import check_stored
from audit.checkpoints.tensors import (
    FURTHER_ENCODERS,
    BackboneTensors,
    bare_text_names,
    from_pickle,
    from_safetensors,
    from_shards,
)
from audit.errors import CheckpointError
from audit.weights.checkpoints import CheckpointRef, is_safetensors


def recognise(ref: CheckpointRef, backbone: BackboneTensors) -> Artefact:
    """Return the artefact, with names and shapes checked against the backbone's. No tensor is read from a safetensors file.

    Raises `CheckpointError` when the file is no erased model, of another family, incomplete, unreadable or unsafe.
    """
    where = str(ref.path)
    if ref.kind == "pipeline":
        return _pipeline(ref, backbone, where)
    if ref.kind in ("unet", "text-encoder"):
        return by_names(from_shards(ref.paths()), {}, None, backbone, where)
    path = ref.paths()[0]
    config = path.parent / "eraser_config.json"
    artefact = _from_file(ref, path, config if config.is_file() else None, backbone)
    check_stored({**artefact.unet, **artefact.text, **artefact.adapters}, where)
    return dataclasses.replace(artefact, where=where)


def _from_file(ref: CheckpointRef, path: Path, config: Path | None, backbone: BackboneTensors) -> Artefact:
    if is_safetensors(path):
        tensors, metadata = from_safetensors(path)
        if is_peft(tensors):
            return lora_artefact(tensors, metadata, backbone, str(path), ref)
        return by_names(tensors, metadata, config, backbone, str(path))
    content = from_pickle(path)
    if isinstance(content, Mapping) and all(isinstance(name, str) for name in content) and is_peft(content):
        return lora_artefact(pickles.tensors_of(content, str(path)), {}, backbone, str(path), ref)
    return pickles.recognise(content, config, backbone, str(path))


def _pipeline(ref: CheckpointRef, backbone: BackboneTensors, where: str) -> Artefact:
    unet = from_shards([*ref.paths("unet"), *ref.paths("transformer")])
    if not unet:
        raise CheckpointError(
            "the pipeline folder has neither a UNet nor a transformer", where=where, next_step="pass the whole folder"
        )
    check_denoiser(unet, backbone.unet, where)
    adapted = any(".adapter." in name for name in unet)
    artefact = (merged_receler if adapted else unet_artefact)(unet, backbone, where)
    for part in FURTHER_ENCODERS:
        _require_encoder(part, ref, backbone, where)
    if adapted:
        return artefact
    text = bare_text_names(from_shards(ref.paths("text_encoder")))
    if text:
        check_names_and_shapes(text, backbone.text, where, "text encoder")
    return dataclasses.replace(artefact, layout=layouts.PIPELINE, text=text, whole=True)


def _require_encoder(part: str, ref: CheckpointRef, backbone: BackboneTensors, where: str) -> None:
    """Return when a further text encoder, where the folder has it, is the backbone's: a changed one would not be applied."""
    for name, tensor in bare_text_names(from_shards(ref.paths(part))).items():
        known = backbone.further_text.get(part, {}).get(name)
        if known is None or known.shape != tensor.shape or not same(known.load(), tensor.load(), tensor.stored):
            raise CheckpointError(
                f"the pipeline folder's {part} is not the backbone's (e.g. {name}), and a checkpoint changes "
                "the denoising network and the first text encoder alone",
                where=where,
                next_step="audit the folder as a backbone of its own: backbone: FOLDER",
            )
