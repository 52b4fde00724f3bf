"""Measure tensor by tensor what a checkpoint changes against its backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch

from audit.checkpoints.key_sets import group_of, matching_set
from audit.checkpoints.layouts import Artefact, SpmFile
from audit.checkpoints.stored import FP8
from audit.checkpoints.tensors import BackboneTensors, LazyTensor, LazyTensors
from audit.errors import CheckpointError

TEXT_ENCODER, ADAPTERS, SPM_LAYERS = "text encoder", "added adapters", "added SPM layers"
# How finely a type resolves; tensors are compared at the coarser of the two, so that storing is not changing.
_COARSENESS = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
_START = 1024


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of tensors that differ. `relative_norm` is ||W' - W|| / ||W|| over them; None where the backbone has no
    such tensors.
    """

    tensors: int
    parameters: int
    relative_norm: float | None


@dataclasses.dataclass(frozen=True)
class Measured:
    """The footprint of an artefact, measured whatever method is claimed to have made it."""

    names: tuple[str, ...]  # UNet tensors that differ, by diffusers names
    text_names: tuple[str, ...]  # text-encoder tensors that differ
    rounded: tuple[str, ...]  # UNet tensors that are equal but for rounding, so that a change below it would not show
    key_set: str | None  # the known set that `names` are
    compared: int  # tensors of the file that have a counterpart in the backbone
    parameters: int  # in everything that differs or is added
    parameter_share: float  # of the parameters of the changed component (UNet, or text encoder when only it changes)
    relative_norm: float | None  # over all UNet tensors that differ, or the text encoder's
    groups: Mapping[str, Group]

    @property
    def tensors(self) -> int:
        """Return the number of tensors that differ or are added."""
        return sum(group.tensors for group in self.groups.values())


class _Sums:
    """Running sums of one group."""

    def __init__(self) -> None:
        self.tensors = self.parameters = 0
        self.change = self.norm = 0.0

    def add(self, parameters: int, change: float, norm: float) -> None:
        """Count one tensor, with the norms of its change and of what it was."""
        self.tensors, self.parameters = self.tensors + 1, self.parameters + parameters
        self.change, self.norm = self.change + change**2, self.norm + norm**2

    def group(self, added: bool = False) -> Group:
        ratio = None if added else (self.change / max(self.norm, 1e-30)) ** 0.5
        return Group(self.tensors, self.parameters, ratio)


def measure(artefact: Artefact, backbone: BackboneTensors) -> Measured:
    """Return the measured footprint. At most two tensors are in memory at a time.

    Raises `CheckpointError` when a value is not finite, nothing differs from the backbone, or a file that holds only
    what its method trained also holds tensors that do not differ.
    """
    sums: dict[str, _Sums] = {}
    names, rounded = _compare(artefact.unet, backbone.unet, group_of, sums, artefact.where)
    text, text_rounded = _compare(artefact.text, backbone.text, lambda name: TEXT_ENCODER, sums, artefact.where)
    added = _added(artefact, sums)
    if artefact.spm is not None:
        _spm(artefact.spm, backbone, sums, artefact.where)
    _check(artefact, {*names, *text}, {*rounded, *text_rounded}, sums)
    changed = [s for name, s in sums.items() if name not in (ADAPTERS, SPM_LAYERS, TEXT_ENCODER)]
    if not changed and TEXT_ENCODER in sums:
        changed = [sums[TEXT_ENCODER]]
    if SPM_LAYERS in sums:
        changed = [sums[SPM_LAYERS]]
    part = backbone.unet if names or added or artefact.spm else backbone.text
    parameters = sum(s.parameters for s in sums.values())
    norm = sum(s.norm for s in changed)
    return Measured(
        names=tuple(sorted(names)),
        text_names=tuple(sorted(text)),
        rounded=tuple(sorted(rounded)),
        key_set=matching_set(names, backbone.unet),
        compared=len(artefact.unet) + len(artefact.text),
        parameters=parameters,
        parameter_share=parameters / sum(tensor.size for tensor in part.values()),
        relative_norm=(sum(s.change for s in changed) / norm) ** 0.5 if norm else None,
        groups={name: s.group(name == ADAPTERS) for name, s in sorted(sums.items())},
    )


def _compare(
    new: LazyTensors, old: LazyTensors, group: Callable[[str], str], sums: dict[str, _Sums], where: str
) -> tuple[list[str], list[str]]:
    """Return the names that differ, and those that are equal at a precision that hides small changes; add to `sums` by group."""
    differing, rounded = [], []
    for name, tensor in new.items():
        after, before = finite(name, tensor, where), old[name].load()
        if same(before, after, tensor.stored):
            if _is_coarse(before, after, tensor.stored):
                rounded.append(name)
            continue
        differing.append(name)
        change = _norm(after.float() - before.float())
        sums.setdefault(group(name), _Sums()).add(tensor.size, change, _norm(before))
    return differing, rounded


def same(before: torch.Tensor, after: torch.Tensor, stored: str | None = None) -> bool:
    """Return whether two tensors are equal at the coarser of their precisions: a rounded copy is not a change.

    Neither is one that was rounded on its way: to `stored` when that is of eight bits, or to float16 or bfloat16 before
    it was saved as something wider.
    """
    coarser = max(before.dtype, after.dtype, key=lambda dtype: _COARSENESS.get(dtype, 0))
    if torch.equal(before.to(coarser), after.to(coarser)):
        return True
    kinds = [getattr(torch, stored)] if stored in FP8 else []
    return any(_is_rounded(before, after, kind) for kind in (*kinds, torch.float16, torch.bfloat16))


def _is_coarse(before: torch.Tensor, after: torch.Tensor, stored: str | None) -> bool:
    """Return whether equal tensors may differ by less than their stored precision resolves."""
    coarse = max(_COARSENESS.get(tensor.dtype, 0) for tensor in (before, after)) > _COARSENESS[torch.float32]
    return coarse or stored in FP8 or not torch.equal(before.double(), after.double())


def _is_rounded(before: torch.Tensor, after: torch.Tensor, kind: torch.dtype) -> bool:
    start = before.flatten()[:_START], after.flatten()[:_START]  # tells most tensors without converting the whole
    pairs = (start, (before, after))
    return all(torch.equal(first.to(kind).to(second.dtype), second) for first, second in pairs)


def finite(name: str, tensor: LazyTensor, where: str) -> torch.Tensor:
    """Return the tensor's values. Raises `CheckpointError` when one is NaN or infinite."""
    values = tensor.load()
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise CheckpointError(
            f"{name} holds NaN or infinity", where=where, next_step="get the checkpoint again, or train it again"
        )
    return values


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _added(artefact: Artefact, sums: dict[str, _Sums]) -> bool:
    """Sum up Receler's adapters; return whether there are any. One whose `up` is zero adds nothing, as before training."""
    acting = False
    for name, tensor in artefact.adapters.items():
        values = finite(name, tensor, artefact.where)
        acting |= ".up." in name and bool(values.any())
        sums.setdefault(ADAPTERS, _Sums()).add(tensor.size, _norm(values.float()), 0.0)
    if artefact.adapters and not acting:
        raise CheckpointError(
            "the erasers' output layers are all zero, as before training: they add nothing to the backbone",
            where=artefact.where,
            next_step="pass the checkpoint that was saved after training",
        )
    return acting


def _spm(spm: SpmFile, backbone: BackboneTensors, sums: dict[str, _Sums], where: str) -> None:
    """Sum up SPM's layers at multiplier 1: alpha / rank * up @ down against the weight it is added to."""
    for path, lazy in spm.down.items():
        down, up = finite(path, lazy, where).float(), finite(path, spm.up[path], where).float()
        delta = up.flatten(1) @ down.flatten(1) * (spm.alpha / spm.rank)
        if delta.any():
            weight = backbone.unet[f"{path}.weight"].load()
            size = lazy.size + spm.up[path].size
            sums.setdefault(SPM_LAYERS, _Sums()).add(size, _norm(delta), _norm(weight.float()))


def _check(artefact: Artefact, names: set[str], rounded: set[str], sums: Mapping[str, _Sums]) -> None:
    """Return when something differs, and everything does that the file declares, but for what rounding may hide."""
    declared = sorted(artefact.unet) + sorted(artefact.text)
    if not sums:
        raise CheckpointError(
            f"all {len(declared) or artefact.file_tensors} tensors equal the backbone's: nothing was erased",
            where=artefact.where,
            next_step="check which layers were trained: ESD's 'xattn' and 'esd-a', for example, select none",
        )
    still = [name for name in declared if name not in names]
    hidden = set(still) <= rounded and 2 * len(still) < len(declared)  # no rounding hides most of what was trained
    if still and not hidden and not artefact.whole:
        raise CheckpointError(
            f"{len(still)} of its {len(declared)} tensors equal the backbone's "
            f"(e.g. {still[0]}): what differs is not what the file declares to have changed",
            where=artefact.where,
            next_step="check that the training ran through and that this is the backbone it started from",
        )
