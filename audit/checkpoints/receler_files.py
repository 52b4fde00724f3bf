"""Read Receler's two layouts: adapters on their own (official code), or among a UNet's tensors (a re-implementation)."""

from __future__ import annotations

from pathlib import Path

from audit.checkpoints import layouts
from audit.checkpoints.families import check_family, check_names_and_shapes
from audit.checkpoints.key_sets import names_sha256
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.receler_adapter import check_adapters, entry_name
from audit.checkpoints.stored import check_not_quantised, check_stored
from audit.checkpoints.tensors import BackboneTensors, LazyTensors, shown
from audit.errors import CheckpointError
from audit.weights.files import read_json

_NEXT = "check that the erasers were trained for this backbone, and get the whole checkpoint"
_BLOCK = ".transformer_blocks.0.adapter."


def receler_artefact(flat: LazyTensors, config: Path | None, backbone: BackboneTensors, where: str) -> Artefact:
    """Return the artefact of adapters by flat names (`{entry}.{down|up}.{weight|bias}`).

    Raises `CheckpointError` when they do not fit the backbone, or when the configuration gives another rank.
    """
    rank = _check(flat, backbone, where)
    described = read_json(config) if config is not None else {}
    notes: tuple[str, ...] = ()
    if config is None:
        notes = ("there is no eraser_config.json beside the weights: the rank was read from them",)
    elif described.get("eraser_rank", rank) != rank:
        raise CheckpointError(
            f"the erasers have rank {rank}, eraser_config.json says {shown(described['eraser_rank'])}", where=where,
            next_step="the two files do not belong together; copy the folder again",
        )  # fmt: skip
    return Artefact(
        layouts.RECELER, where, names_sha256(flat), len(flat), adapters=flat, notes=notes, config={"rank": rank}
    )


def merged_receler(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> Artefact:
    """Return the artefact of a whole UNet with adapters among its tensors.

    They are split off here, because diffusers would drop them and load the backbone itself.
    """
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
    """Return the adapters' rank. Raises `CheckpointError` unless every attn2 has one whole adapter of the right width."""
    check_not_quantised(flat, where)
    check_stored(flat, where, values=False)
    check_family(flat, backbone.unet, where)
    suffix = ".to_out.0.weight"
    widths = {
        entry_name(name.removesuffix(suffix)): tensor.shape[0]
        for name, tensor in backbone.unet.items()
        if name.endswith(f".attn2{suffix}")
    }
    return check_adapters({name: tensor.shape for name, tensor in flat.items()}, widths, where)
