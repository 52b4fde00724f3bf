"""Read SPM's files: kohya-style names, and metadata with rank, alpha and the erased prompts."""

from __future__ import annotations

from collections.abc import Mapping

from audit.checkpoints import layouts
from audit.checkpoints.families import check_family
from audit.checkpoints.key_sets import names_sha256
from audit.checkpoints.layouts import Artefact, SpmFile
from audit.checkpoints.stored import check_stored
from audit.checkpoints.tensors import BackboneTensors, LazyTensors, shown
from audit.errors import CheckpointError

_PREFIX = "lora_unet_"
_NEXT = "get the file as SPM's train_spm.py wrote it, with its metadata"
_PARTS = ("lora_down.weight", "lora_up.weight", "alpha")


def is_spm(metadata: object) -> bool:
    """Return whether a file's metadata are SPM's: they name the prompts that it erases."""
    return isinstance(metadata, Mapping) and "prompts" in metadata


def spm_artefact(tensors: LazyTensors, metadata: object, backbone: BackboneTensors, where: str) -> Artefact:
    """Return the artefact of SPM's low-rank layers, by the backbone's module paths. Raises `CheckpointError` for an
    ordinary LoRA.
    """
    fields = metadata if isinstance(metadata, Mapping) else {}
    prompts = tuple(part.strip() for part in str(fields.get("prompts", "")).split(",") if part.strip())
    if not prompts:
        raise CheckpointError(
            "SPM's metadata 'prompts' is empty: the file does not say when it should act",
            where=where,
            next_step=_NEXT,
        )
    modules = {_PREFIX + path.replace(".", "_"): path for path in _linear_modules(backbone)}
    layers: dict[str, dict[str, str]] = {}
    for name in tensors:
        module, _, part = name.partition(".")
        if module not in modules or part not in _PARTS:
            check_family(_as_context(tensors), backbone.unet, where)
            raise CheckpointError(
                f"the tensor {name} belongs to no layer of the backbone's transformer blocks",
                where=where,
                next_step="pass the checkpoint's own backbone with --backbone",
            )
        layers.setdefault(modules[module], {})[part] = name
    incomplete = sorted(path for path, parts in layers.items() if not {*_PARTS[:2]} <= set(parts))
    if incomplete:
        raise CheckpointError(f"the layer {incomplete[0]} lacks a half of its pair", where=where, next_step=_NEXT)
    down = {path: tensors[parts[_PARTS[0]]] for path, parts in layers.items()}
    up = {path: tensors[parts[_PARTS[1]]] for path, parts in layers.items()}
    check_stored({**down, **up}, where, values=False)
    rank, alpha = _numbers(fields, down, where)
    _check_shapes(down, up, rank, backbone, where)
    missing = len(modules) - len(layers)
    notes = (f"{missing} of the backbone's {len(modules)} layers have no SPM pair",) if missing else ()
    spm = SpmFile(down, up, rank, alpha, prompts)
    return Artefact(layouts.SPM, where, names_sha256(tensors), len(tensors), spm=spm, notes=notes,
                    config={"rank": rank, "alpha": alpha, "prompts": list(prompts)})  # fmt: skip


def _linear_modules(backbone: BackboneTensors) -> list[str]:
    """Return the paths of the linear and convolution layers inside the UNet's transformers."""
    return [
        name.removesuffix(".weight")
        for name, tensor in backbone.unet.items()
        if ".attentions." in name and name.endswith(".weight") and len(tensor.shape) >= 2
    ]


def _as_context(tensors: LazyTensors) -> LazyTensors:
    """Return one `..._attn2_to_k.lora_down.weight` as attn2.to_k, whose input it shares: its width tells the family."""
    reading = [tensor for name, tensor in tensors.items() if name.endswith("attn2_to_k.lora_down.weight")]
    return {"attn2.to_k.weight": reading[0]} if reading else {}


def _numbers(fields: Mapping[str, object], down: LazyTensors, where: str) -> tuple[int, float]:
    first = next(iter(down.values())).shape
    own = first[0] if first else 0
    try:
        rank, alpha = int(float(str(fields.get("rank", own)))), float(str(fields.get("alpha", 1.0)))
    except (ValueError, OverflowError):
        rank, alpha = 0, 0.0
    if rank != own or not 0 < alpha < float("inf"):
        raise CheckpointError(
            f"its metadata says rank {shown(fields.get('rank'))} and alpha {shown(fields.get('alpha'))}, "
            f"its tensors have rank {own}",
            where=where,
            next_step=_NEXT,
        )
    return rank, alpha


def _check_shapes(down: LazyTensors, up: LazyTensors, rank: int, backbone: BackboneTensors, where: str) -> None:
    check_family({f"{path}.weight": tensor for path, tensor in down.items()}, backbone.unet, where)
    for path, tensor in down.items():
        out, into, *kernel = backbone.unet[f"{path}.weight"].shape
        ones = [1] * len(kernel)
        wanted = ((rank, into, *kernel), (out, rank, *ones))
        if (tensor.shape, up[path].shape) != wanted:
            raise CheckpointError(
                f"the SPM pair of {path} has shapes {tensor.shape} and {up[path].shape}, "
                f"this backbone needs {wanted[0]} and {wanted[1]}",
                where=where,
                next_step="pass the checkpoint's own backbone with --backbone",
            )
