"""Refuse checkpoints of another model: names that the backbone lacks, shapes of SD 2.x or SDXL, incomplete sets."""

from __future__ import annotations

import re
from collections.abc import Collection

from audit.checkpoints.key_sets import MEANINGS, matching_set, nearest_set, some_layers
from audit.checkpoints.stored import check_not_quantised, check_stored
from audit.checkpoints.tensors import LazyTensors
from audit.errors import CheckpointError
from audit.weights.families import SUPPORTED, Family

_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
# At the start of a name, or after a component's prefix or kohya's; a UNet's own transformer_blocks lie below attentions.
_TRANSFORMER = re.compile(
    r"^(base_model\.model\.|transformer\.|diffusion_model\.|model\.diffusion_model\.|lora_(unet|transformer)_)?"
    r"(single_)?(transformer_blocks|joint_blocks|double_blocks|single_blocks)[._]\d"
)
_UNET = re.compile(r"(^|[._])(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)[._]")
_NEXT = f"pass the checkpoint's own backbone with --backbone ({SUPPORTED} and the testbed are supported)"


def check_names_and_shapes(tensors: LazyTensors, backbone: LazyTensors, where: str, part: str | None = None) -> None:
    """Check that every tensor exists in the backbone with this shape; `part` names it (default: its denoising network).

    Raises `CheckpointError` otherwise.
    """
    part = part or network_of(backbone)
    check_not_quantised(tensors, where)
    check_family(tensors, backbone, where)
    unexpected = sorted(set(tensors) - set(backbone))
    if not tensors or len(unexpected) == len(tensors):
        example = f"e.g. {unexpected[0]}" if unexpected else "it is empty"
        raise CheckpointError(
            f"0 of {len(tensors)} tensors have names that the backbone's {part} has ({example}): nothing would be loaded",
            where=where,
            next_step=_NEXT,
        )
    if unexpected:
        raise CheckpointError(
            f"{len(unexpected)} of {len(tensors)} tensors have names that the backbone's {part} does not have "
            f"(e.g. {unexpected[0]})",
            where=where,
            next_step=_NEXT,
        )
    check_stored(tensors, where, values=False)
    for name, tensor in tensors.items():
        if tensor.shape != backbone[name].shape:
            raise CheckpointError(
                f"{name} has shape {tensor.shape}, the backbone's {part} has {backbone[name].shape}",
                where=where,
                next_step=_NEXT,
            )


def is_transformer(tensors: Collection[str]) -> bool:
    """Return whether the names are those of a transformer that denoises (SD 3.x, Flux), as diffusers or its authors write it."""
    return any(_TRANSFORMER.search(name) for name in tensors)


def network_of(tensors: Collection[str]) -> str:
    """Return what a denoising network with these names is called: transformer or UNet."""
    return "transformer" if is_transformer(tensors) else "UNet"


def family_of(backbone: LazyTensors) -> Family:
    """Return the family of a backbone by the names and shapes of its denoising network's tensors."""
    if is_transformer(backbone):
        return "flux" if any(name.startswith("single_transformer_blocks.") for name in backbone) else "sd3"
    if any(name.startswith("add_embedding.") for name in backbone):
        return "sdxl"
    return "sd2" if context_width(backbone) == 1024 or _projection_rank(backbone) == 2 else "sd1"


def check_denoiser(tensors: Collection[str], backbone: Collection[str], where: str) -> None:
    """Raise `CheckpointError` when one of file and backbone is of a transformer and the other of a UNet."""
    ours = is_transformer(backbone)
    if is_transformer(tensors) and not ours:
        raise CheckpointError(
            "the file is made for a transformer (Stable Diffusion 3.x or Flux), and the backbone's denoiser is a UNet",
            where=where,
            next_step="pass the checkpoint's own backbone with --backbone, or a checkpoint of this one",
        )
    if ours and any(_UNET.search(name) for name in tensors):
        raise CheckpointError(
            "the file is made for a UNet (Stable Diffusion 1.x, 2.x or SDXL), and the backbone's denoiser is a transformer",
            where=where,
            next_step="pass the checkpoint's own backbone with --backbone, or a checkpoint of this one",
        )


def check_family(tensors: LazyTensors, backbone: LazyTensors, where: str) -> None:
    """Raise when the tensors show another family than the backbone's.

    What tells: the width that cross-attention reads, SDXL's own names, and, in files without cross-attention, whether
    transformers begin with a 1x1 convolution (SD 1.x) or a linear layer (SD 2.x, SDXL).
    """
    width, own = context_width(tensors), context_width(backbone)
    if width is None and own is not None and _has_sdxl_names(tensors) and not _has_sdxl_names(backbone):
        width = 2048
    if width is None:
        _check_projections(tensors, backbone, where)
    if width is None or own is None or width == own:
        return
    family = _WIDTHS.get(width, "another model")
    raise CheckpointError(
        f"the checkpoint is made for {family}: its cross-attention reads text of width {width}, "
        f"the backbone's of width {own}" + ("" if own not in _WIDTHS else f" ({_WIDTHS[own]})"),
        where=where,
        next_step=_NEXT,
    )


def _has_sdxl_names(tensors: Collection[str]) -> bool:
    return any(
        ".transformer_blocks.1." in name or name.startswith(("add_embedding.", "label_emb.")) for name in tensors
    )


def _check_projections(tensors: LazyTensors, backbone: LazyTensors, where: str) -> None:
    rank, own = _projection_rank(tensors), _projection_rank(backbone)
    if rank is not None and own is not None and rank != own:
        family = "Stable Diffusion 1.x" if rank == 4 else "Stable Diffusion 2.x or SDXL"
        raise CheckpointError(
            f"the checkpoint is made for {family}: its proj_in weights have {rank} dimensions, the backbone's {own}",
            where=where,
            next_step=_NEXT,
        )


def _projection_rank(tensors: LazyTensors) -> int | None:
    return next((len(t.shape) for name, t in tensors.items() if name.endswith(".proj_in.weight")), None)


def context_width(tensors: LazyTensors) -> int | None:
    """Return the input width of attn2's key projection: 768 for SD 1.x, 1024 for SD 2.x, 2048 for SDXL. None without one."""
    for name, tensor in tensors.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) and len(tensor.shape) == 2:
            return tensor.shape[1]
    return None


def known_set(tensors: Collection[str], backbone: Collection[str], where: str) -> tuple[str, tuple[str, ...]]:
    """Return the known key set that the names form, and notes on it: it may be the set of some layers alone.

    Raises `CheckpointError` for a subset that no eraser writes.
    """
    key_set = matching_set(tensors, backbone)
    if key_set is not None:
        return key_set, ()
    part = some_layers(tensors, backbone)
    if part is not None:
        name, count, of = part
        changed = (
            MEANINGS[name].partition(", or ")[0].replace("every attn2", "attn2")
        )  # joint attention has no such files
        sentence = f"it changes {changed} in {count} of {of} layers only"
        return f"{name} of {count} layers", (f"{sentence}: if its method trains all of them, the file is incomplete",)
    near, missing, extra = nearest_set(tensors, backbone)
    raise CheckpointError(
        f"its {len(tensors)} tensors are no set that a known eraser changes; nearest is {near} ({MEANINGS[near]}) with "
        f"{missing} missing and {extra} besides it: the file is incomplete or of an unknown layout",
        where=where,
        next_step="get the whole file; of an unknown method, save the whole state dict of the erased network instead",
    )
