"""Compute the change that a personalisation adds to each weight: a LoRA's products, or a whole network's difference to its base.

DreamBooth (Ruiz et al. 2022, arXiv 2208.12242) saves the model it trained, not a change. Its change is the difference
to the model that its training started from, the *base*: W_model + (W_dreambooth - W_base).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import torch

from audit.checkpoints import layouts
from audit.checkpoints.families import network_of
from audit.checkpoints.footprint import finite, same
from audit.checkpoints.lora_files import read_lora_file
from audit.checkpoints.personalisation import NEXT, PersonalisationRef
from audit.checkpoints.recognition import recognise
from audit.checkpoints.tensors import (
    BackboneTensors,
    LazyTensor,
    LazyTensors,
    from_outside,
    from_pickle,
    from_safetensors,
)
from audit.errors import CheckpointError
from audit.weights.checkpoints import is_safetensors

Delta = Callable[[], torch.Tensor]  # float32, on the CPU
_WHOLE = (layouts.FULL, layouts.PIPELINE, layouts.LDM_FULL)


@dataclasses.dataclass(frozen=True)
class Change:
    """The change that is added to the weights of any model of the family, by the backbone's names. It is never empty."""

    unet: Mapping[str, Delta]
    text: Mapping[str, Delta]  # names without `text_model.`
    facts: Mapping[str, object]  # kind, layers, rank
    summary: str
    notes: tuple[str, ...] = ()  # what the user should know before trusting a number about it


def read_change(ref: PersonalisationRef, base: BackboneTensors) -> Change:
    """Return the change of a personalisation that was trained from `base`.

    A LoRA is a change by itself; `base` only gives names and shapes. Raises `CheckpointError` for a file that is
    unsafe, unreadable, of another model, incomplete, not finite, or changes nothing.
    """
    return _lora(ref, base) if ref.kind == "lora" else _dreambooth(ref, base)


def trained_change(tensors: Mapping[str, torch.Tensor], item: str, rank: int, alpha: float | None) -> Change:
    """Return the change of a LoRA that an attack trained: its pairs are named `item/module.down` and `item/module.up`.

    The product is scaled by alpha / rank; without an alpha by 1.
    """
    names = [name.removesuffix(".down") for name in tensors if name.startswith(f"{item}/") and name.endswith(".down")]
    scale = 1.0 if alpha is None else alpha / rank

    def delta(name: str) -> torch.Tensor:
        down, up = (tensors[f"{name}.{half}"].float().cpu() for half in ("down", "up"))
        return scale * up @ down

    return Change(
        {f"{name.removeprefix(f'{item}/')}.weight": functools.partial(delta, name) for name in names},
        {},
        {"kind": "lora", "unet_layers": len(names), "text_encoder_layers": 0, "ranks": [rank]},
        f"a LoRA of rank {rank} on {len(names)} layers of the network",
    )


def trained_network(tensors: Mapping[str, torch.Tensor], item: str) -> Change:
    """Return the change of a network that an attack trained whole: what was added to each weight is named `item/weight`."""
    names = [name for name in tensors if name.startswith(f"{item}/")]

    def delta(name: str) -> torch.Tensor:
        return tensors[name].float().cpu()

    return Change(
        {name.removeprefix(f"{item}/"): functools.partial(delta, name) for name in names},
        {},
        {"kind": "dreambooth", "unet_layers": len(names), "text_encoder_layers": 0},
        f"a whole network, trained in {len(names)} tensors",
    )


def _lora(ref: PersonalisationRef, base: BackboneTensors) -> Change:
    path = ref.files.paths()[0]
    tensors, metadata = from_safetensors(path) if is_safetensors(path) else (_pickled(ref), {})
    read = read_lora_file(tensors, metadata, ref.files, base, str(path))
    lora, ranks = read.lora, read.ranks
    rank = "-".join(dict.fromkeys((str(ranks[0]), str(ranks[-1]))))
    return Change(
        {name: pair.delta for name, pair in lora.unet.items()},
        {name: pair.delta for name, pair in lora.text.items()},
        {
            "kind": "lora",
            "unet_layers": len(lora.unet),
            "text_encoder_layers": len(lora.text),
            "ranks": ranks,
            **read.settings(),
        },
        f"a LoRA of rank {rank} on {len(lora.unet)} layers of the {network_of(base.unet)} "
        f"and {len(lora.text)} of the text encoder",
        read.notes,
    )


def _pickled(ref: PersonalisationRef) -> LazyTensors:
    path = ref.files.paths()[0]
    content = from_pickle(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError("the file is no flat set of named tensors", where=str(path), next_step=NEXT)
    return from_outside({str(name): tensor for name, tensor in content.items()}, str(path))


def _dreambooth(ref: PersonalisationRef, base: BackboneTensors) -> Change:
    where = str(ref.files.path)
    artefact = recognise(ref.files, base)
    if artefact.layout not in _WHOLE or set(artefact.unet) != set(base.unet):
        raise CheckpointError(
            f"the personalisation is {artefact.layout.says} and not a whole {network_of(base.unet)} "
            f"({len(artefact.unet)} of {len(base.unet)} tensors)",
            where=where,
            next_step=NEXT,
        )
    unet = _differing(artefact.unet, base.unet, where)
    text = _differing(artefact.text, base.text, where)
    if not unet and not text:
        raise CheckpointError(
            "the personalisation equals the model that it is said to be trained from: it adds nothing",
            where=where,
            next_step="name the model that training saved, and the scenario of the model that it started from",
        )
    return Change(
        unet,
        text,
        {"kind": "dreambooth", "unet_layers": len(unet), "text_encoder_layers": len(text)},
        f"a whole {network_of(base.unet)}, which differs from its base in {len(unet)} tensors, "
        f"and {len(text)} of the text encoder",
    )


def _differing(new: LazyTensors, base: LazyTensors, where: str) -> dict[str, Delta]:
    """Return the tensors that differ from the base's at the coarser of their precisions, two in memory at a time."""
    return {
        name: functools.partial(_difference, tensor, base[name])
        for name, tensor in new.items()
        if not same(base[name].load(), finite(name, tensor, where), tensor.stored)
    }


def _difference(new: LazyTensor, base: LazyTensor) -> torch.Tensor:
    return new.load().float() - base.load().float()
