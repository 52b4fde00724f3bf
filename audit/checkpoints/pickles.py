"""Recognise a loaded pickle by its top-level keys: the layouts of ESD, Receler, Concept Ablation, AdvUnlearn, RECE, UCE."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from audit.checkpoints import layouts
from audit.checkpoints.families import check_names_and_shapes, known_set
from audit.checkpoints.key_sets import LDM_PREFIX, names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.ldm_files import ldm
from audit.checkpoints.named import by_names, text_artefact, with_prefix
from audit.checkpoints.other_methods import refuse_content
from audit.checkpoints.prefixes import without_prefixes
from audit.checkpoints.receler_adapter import PARTS
from audit.checkpoints.receler_files import receler_artefact
from audit.checkpoints.tensors import BackboneTensors, LazyTensors, bare_text_names, from_outside
from audit.errors import CheckpointError
from audit.files import Document

_ADV = "text_encoder."
_MACE = re.compile(r"\d+_for_mat[12]")


def recognise(content: object, config: Path | None, backbone: BackboneTensors, where: str) -> Artefact:
    """Return the artefact of a pickle's content. Raises `CheckpointError` when it is no erased model."""
    refuse_content(content, where)
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise _unknown(where, f"it holds a {type(content).__name__}, not named tensors")
    flat = all(isinstance(value, torch.Tensor) for value in content.values())
    bare, prefix = without_prefixes(content) if flat else (content, "")
    return with_prefix(_recognised(bare, config, backbone, where), prefix)


def _recognised(content: Document, config: Path | None, backbone: BackboneTensors, where: str) -> Artefact:
    keys = list(content)
    if any(key.startswith(LDM_PREFIX) for key in keys):
        return ldm(tensors_of(content, where), backbone, where, delta=False)
    if isinstance(content.get("state_dict"), Mapping):
        return _state_dict(content["state_dict"], config, backbone, where)
    if isinstance(content.get("unet"), Mapping):
        return _ca_delta(content, backbone, where)
    if all(key.startswith("unet.") and isinstance(content[key], Mapping) for key in keys):
        flat = {f"{k.removeprefix('unet.')}.{p}": t for k, parts in content.items() for p, t in parts.items()}
        return _nested_esd(tensors_of(flat, where), backbone, where)
    if any(isinstance(value, Mapping) and set(PARTS) <= set(value) for value in content.values()):
        if not all(isinstance(value, Mapping) for value in content.values()):
            raise _unknown(where, "it mixes Receler's erasers with other entries")
        flat = {f"{entry}.{part}": t for entry, parts in content.items() for part, t in parts.items()}
        return receler_artefact(tensors_of(flat, where), config, backbone, where)
    if any(key.startswith(_ADV) for key in keys):
        return _advunlearn(tensors_of(content, where), backbone, where)
    _refuse_others(content, where)
    return by_names(tensors_of(content, where), {}, config, backbone, where)


def _state_dict(content: Document, config: Path | None, backbone: BackboneTensors, where: str) -> Artefact:
    """Recognise a state dict that Lightning or Concept Ablation wrapped: a UNet by latent-diffusion names, or any flat
    set of names.
    """
    if not content or not all(isinstance(name, str) for name in content):
        raise _unknown(where, "its 'state_dict' holds no named tensors")
    tensors, prefix = without_prefixes(tensors_of(content, where))
    if "embed" in tensors or any(name.startswith(LDM_PREFIX) for name in tensors):
        return with_prefix(ldm(tensors, backbone, where, delta=True), prefix)
    return with_prefix(by_names(tensors, {}, config, backbone, where), prefix)


def _ca_delta(content: Document, backbone: BackboneTensors, where: str) -> Artefact:
    unet = tensors_of(content["unet"], where)
    notes: tuple[str, ...] = ()
    encoder = content.get("text_encoder")
    text = bare_text_names(tensors_of(encoder, where)) if isinstance(encoder, Mapping) else {}
    if unet:
        check_names_and_shapes(unet, backbone.unet, where)
    if text or not unet:
        check_names_and_shapes(text, backbone.text, where, "text encoder")
    key_set = None
    if unet:
        key_set, notes = known_set(unet, backbone.unet, where)
    others = sorted(set(content) - {"unet", "text_encoder"})
    if others:
        notes = (*notes, f"its entries {', '.join(others)} are not used")
    names = [*unet, *text]
    return Artefact(
        layouts.CA_DELTA, where, names_sha256(names), len(names), key_set,
        unet=unet, text=text, whole=key_set == "ALL" or bool(text), notes=notes,
    )  # fmt: skip


def _nested_esd(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> Artefact:
    check_names_and_shapes(tensors, backbone.unet, where)
    key_set, notes = known_set(tensors, backbone.unet, where)
    return Artefact(
        layouts.ESD_NESTED, where, names_sha256(tensors), len(tensors), key_set,
        unet=tensors, whole=key_set == "ALL", notes=notes,
    )  # fmt: skip


def _advunlearn(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> Artefact:
    """Recognise AdvUnlearn's wrapper. Its state dict names every tensor twice; only `text_encoder.*` is taken.

    Under transformers 4 these are `text_encoder.text_model.*`, under transformers 5 there is no `text_model`.
    """
    bare = bare_text_names({n.removeprefix(_ADV): tensor for n, tensor in tensors.items() if n.startswith(_ADV)})
    digest = names_sha256(name for name in tensors if name.startswith(_ADV) and not name.endswith("position_ids"))
    artefact = text_artefact(bare, layouts.TEXT_STATE, backbone, where, digest)
    aliases = len(tensors) - len(bare)
    notes = (f"{aliases} aliases and buffers of the same tensors are not used",) if aliases else ()
    return dataclasses.replace(artefact, notes=notes)


def _refuse_others(content: Document, where: str) -> None:
    keys = list(content)
    if any(_MACE.fullmatch(key) for key in keys):
        raise CheckpointError(
            "the file is MACE's cached prior (statistics of COCO captions for its closed form), not a model",
            where=where,
            next_step="pass the folder that MACE writes last, LoRA_fusion_model",
        )
    alone = content[keys[0]] if len(keys) == 1 else None
    if isinstance(alone, torch.Tensor) and alone.dim() <= 2 and (keys[0].startswith("<") or "." not in keys[0]):
        raise CheckpointError(
            f"the file is a learned token embedding ({keys[0]}), as textual inversion writes: an attack's input, "
            "not a defence",
            where=where,
            next_step="pass the erased model's own checkpoint",
        )


def tensors_of(content: Document, where: str) -> LazyTensors:
    """Return the mapping's tensors; anything else in it is refused by name."""
    for name, value in content.items():
        if not isinstance(name, str):
            raise _unknown(where, f"it names an entry by a {type(name).__name__}, not by text")
        if not isinstance(value, torch.Tensor):
            raise _unknown(where, f"its entry {name!r} is a {type(value).__name__}, not a tensor")
    return from_outside(content, where)


def _unknown(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the file is no checkpoint of a known layout: {why}",
        where=where,
        next_step="pass what the eraser's own code saved, or the erased model's UNet as a state dict",
    )
