"""Read a LoRA from whatever layout its training wrote: diffusers', PEFT's folder, or kohya's; and fuse it into an artefact.

A LoRA of an eraser changes the backbone's weights by W + alpha / rank * up @ down, so that no fusing by hand is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import torch

from audit.checkpoints import layouts
from audit.checkpoints.families import check_denoiser
from audit.checkpoints.key_sets import matching_set, names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.lora import Lora, Pair, read_lora
from audit.checkpoints.lora_headers import read_header
from audit.checkpoints.peft_files import by_part, is_peft
from audit.checkpoints.prefixes import without_prefixes
from audit.checkpoints.tensors import BackboneTensors, LazyTensor, LazyTensors
from audit.errors import CheckpointError
from audit.weights.checkpoints import CheckpointRef

_PERSONAL = "the personalisation cannot be used: "
_NO_SPM = (
    "it has kohya's names and no SPM metadata: an SPM that lost its metadata would act here on every prompt alike, and "
    "not by how close the prompt is to the concept"
)


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """A LoRA with what its file says beside the tensors."""

    lora: Lora
    clip_skip: int
    notes: tuple[str, ...]
    prefix: str  # that a wrapper put before every name

    def settings(self) -> dict[str, object]:
        """Return what a record says of the file."""
        skip = {"clip_skip": self.clip_skip} if self.notes else {}
        return skip | ({} if self.prefix in ("", "unet.") else {"prefix": self.prefix})

    @property
    def ranks(self) -> list[int]:
        """Return the ranks that occur, in order."""
        return sorted({pair.rank for pair in self.lora.pairs})


def is_lora(tensors: LazyTensors) -> bool:
    """Return whether the names are those of a LoRA in one of the known layouts."""
    marks = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.", "_lora.", ".lora_linear_layer.")
    return is_peft(tensors) or any(mark in name for name in tensors for mark in marks)


def read_lora_file(
    tensors: LazyTensors,
    metadata: Mapping[str, str],
    files: CheckpointRef | None,
    backbone: BackboneTensors,
    where: str,
) -> LoraFile:
    """Return the LoRA that named tensors are; `files` say where PEFT's configuration lies, None for tensors in memory.

    Raises `CheckpointError` for one that is unsafe, of another model, incomplete, not finite, or changes nothing.
    """
    skip, notes = read_header(metadata, backbone, where)
    if is_peft(tensors) and files is not None:
        tensors, metadata = by_part(tensors, files, backbone)
    tensors, prefix = without_prefixes(tensors)
    return LoraFile(read_lora(tensors, metadata, backbone, where), skip, notes, prefix)


def lora_artefact(
    tensors: LazyTensors,
    metadata: object,
    backbone: BackboneTensors,
    where: str,
    files: CheckpointRef | None = None,
) -> Artefact:
    """Return the artefact of an eraser's LoRA: the weights that it changes, with its products added when they are read."""
    fields = {str(name): str(value) for name, value in metadata.items()} if isinstance(metadata, Mapping) else {}
    try:
        check_denoiser(tensors, backbone.unet, where)
        read = read_lora_file(tensors, fields, files, backbone, where)
    except CheckpointError as error:
        if not error.what.startswith(_PERSONAL):
            raise
        what = f"the LoRA cannot be used: {error.what.removeprefix(_PERSONAL)}"
        raise CheckpointError(what, where=error.where, next_step=error.next_step) from None
    unet = _fused(read.lora.unet, backbone.unet)
    kohya = any(name.startswith("lora_unet_") for name in tensors)
    layers = {"unet_layers": len(unet), "text_encoder_layers": len(read.lora.text), "ranks": read.ranks}
    return Artefact(
        layouts.LORA, where, names_sha256(tensors), len(tensors), matching_set(unet, backbone.unet),
        unet=unet, text=_fused(read.lora.text, backbone.text), whole=True,
        notes=(*read.notes, _NO_SPM) if kohya else read.notes, config={**layers, **read.settings()},
    )  # fmt: skip


def _fused(pairs: Mapping[str, Pair], backbone: LazyTensors) -> dict[str, LazyTensor]:
    return {
        name: LazyTensor(backbone[name].shape, functools.partial(_added, backbone[name], pair), pair.down.stored)
        for name, pair in pairs.items()
    }


def _added(weight: LazyTensor, pair: Pair) -> torch.Tensor:
    return weight.load().float() + pair.delta()
