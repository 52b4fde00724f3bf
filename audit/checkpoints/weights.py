"""Put erased weights onto a backbone, strictly: an eraser that changes nothing raises instead of looking safe."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What erased weights really change against the backbone's UNet."""

    tensors: int  # tensors that differ
    parameters: int  # parameters in them
    parameter_share: float  # of all UNet parameters, in [0, 1]
    relative_norm: float  # ||W' - W|| / ||W|| over those tensors


def apply_weights(
    unet: UNet2DConditionModel, weights: Mapping[str, torch.Tensor], where: str
) -> tuple[UNet2DConditionModel, Footprint]:
    """A copy of `unet` with `weights` in place, and the measured footprint.

    Raises `CheckpointError` when a name or shape is not the UNet's, a value is not finite, or nothing differs.
    """
    state = unet.state_dict()
    unexpected = sorted(set(weights) - set(state))
    if unexpected or not weights:
        first = f"e.g. {unexpected[0]}" if unexpected else "it is empty"
        raise CheckpointError(
            f"{len(unexpected)} of {len(weights)} tensors have names the UNet does not have ({first})",
            where=where,
            next_step="check that the checkpoint belongs to this backbone",
        )
    changed = parameters = 0
    difference = norm = 0.0
    for name, tensor in weights.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}, the backbone has {tuple(state[name].shape)}",
                where=where,
                next_step="check that the checkpoint belongs to this backbone",
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinity", where=where, next_step="make the checkpoint again")
        old, new = state[name].float(), tensor.to(state[name].device).to(state[name].dtype).float()
        if not torch.equal(old, new):
            changed, parameters = changed + 1, parameters + tensor.numel()
            difference += float((new - old).double().pow(2).sum())
            norm += float(old.double().pow(2).sum())
    if changed == 0:
        raise CheckpointError(
            "the erased weights equal the backbone's: nothing was erased",
            where=where,
            next_step="check the concept's phrase and the eraser's parameters",
        )
    erased = copy.deepcopy(unet)
    erased.load_state_dict(dict(weights), strict=False)  # names were checked above; partial files are the normal case
    total = sum(p.numel() for p in unet.parameters())
    return erased, Footprint(changed, parameters, parameters / total, (difference / max(norm, 1e-30)) ** 0.5)
