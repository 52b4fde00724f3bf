"""Receler's two layouts: adapters on their own (official code), or among a UNet's tensors (a re-implementation)."""

from __future__ import annotations

from pathlib import Path

from audit.checkpoints import layouts
from audit.checkpoints.families import check_family, check_names_and_shapes
from audit.checkpoints.key_sets import names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.tensors import BackboneTensors, LazyTensors
from audit.erasers.receler_adapter import PARTS
from audit.errors import CheckpointError
from audit.weight_files import read_json

_NEXT = "check that the erasers were trained for this backbone, and get the whole checkpoint"
_BLOCK = ".transformer_blocks.0.adapter."


def receler_artefact(flat: LazyTensors, config: Path | None, backbone: BackboneTensors, where: str) -> Artefact:
    """Adapters by flat names (`{entry}.{down|up}.{weight|bias}`); the configuration's rank must be theirs."""
    rank = _check(flat, backbone, where)
    described = read_json(config) if config is not None else {}
    notes: tuple[str, ...] = ()
    if config is None:
        notes = ("there is no eraser_config.json beside the weights: the rank was read from them",)
    elif described.get("eraser_rank", rank) != rank:
        raise CheckpointError(
            f"the erasers have rank {rank}, eraser_config.json says {described['eraser_rank']}", where=where,
            next_step="the two files do not belong together; copy the folder again",
        )  # fmt: skip
    return Artefact(
        layouts.RECELER, where, names_sha256(flat), len(flat), adapters=flat, notes=notes, config={"rank": rank}
    )


def merged_receler(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> Artefact:
    """A whole UNet plus adapters: without the split, diffusers drops the adapters and gives the backbone itself."""
    unet = {name: tensor for name, tensor in tensors.items() if ".adapter." not in name}
    check_names_and_shapes(unet, backbone.unet, where)
    missing = sorted(set(backbone.unet) - set(unet))
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors of the UNet are missing (e.g. {missing[0]})", where=where, next_step=_NEXT
        )
    flat = {name.replace(_BLOCK, "."): tensor for name, tensor in tensors.items() if ".adapter." in name}
    rank = _check(flat, backbone, where)
    return Artefact(
        layouts.RECELER_MERGED, where, names_sha256(tensors), len(tensors), "ALL",
        unet=unet, adapters=flat, whole=True, config={"rank": rank},
    )  # fmt: skip


def _check(flat: LazyTensors, backbone: BackboneTensors, where: str) -> int:
    """The adapters' rank; raises unless there is one whole adapter of the right width for every attn2."""
    check_family(flat, backbone.unet, where)
    widths = _widths(backbone)
    wanted = {f"{entry}.{part}" for entry in widths for part in PARTS}
    unknown, missing = sorted(set(flat) - wanted), sorted(wanted - set(flat))
    if unknown or missing:
        example = f"unknown: {unknown[0]}" if unknown else f"missing: {missing[0]}"
        raise CheckpointError(
            f"the erasers do not match the backbone's {len(widths)} cross-attention layers "
            f"({len(unknown)} tensors unknown, {len(missing)} missing; {example})",
            where=where,
            next_step=_NEXT,
        )
    first = flat[f"{next(iter(widths))}.down.weight"].shape
    rank = first[0] if len(first) == 2 else 0
    for entry, width in widths.items():
        shapes = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
        for part, shape in shapes.items():
            found = flat[f"{entry}.{part}"].shape
            if found != shape:
                raise CheckpointError(
                    f"{entry}.{part} has shape {found}, an eraser of rank {rank} needs {shape} here",
                    where=where,
                    next_step=_NEXT,
                )
    return rank


def _widths(backbone: BackboneTensors) -> dict[str, int]:
    """Receler's entry name of every attn2 -> the width of what it returns."""
    found = {}
    for name, tensor in backbone.unet.items():
        if name.endswith(".attn2.to_out.0.weight"):
            parts = name.split(".")
            found[".".join(parts[:3] if parts[0] == "mid_block" else parts[:4])] = tensor.shape[0]
    return found
