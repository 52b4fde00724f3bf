"""Put a recognised checkpoint onto a loaded backbone, which is not modified. Tensors that do not change are shared."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from audit.checkpoints.footprint import Measured, measure
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.named import by_names
from audit.checkpoints.receler_adapter import Attached, attach, load_adapters
from audit.checkpoints.recognition import recognise
from audit.checkpoints.spm import Transport
from audit.checkpoints.tensors import LazyTensor, LazyTensors, backbone_modules, in_memory
from audit.diffusion.compiled import Compiled
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.placeholder_tokens import ClipEncoder
from audit.diffusion.sampling import NoiseModel
from audit.weights.checkpoints import CheckpointRef, resolve_checkpoint

Part = TypeVar("Part", bound=Denoiser | ClipEncoder)


@dataclasses.dataclass(frozen=True)
class ErasedModel:
    """An erased model that shares all tensors with its backbone that the checkpoint does not change."""

    unet: Denoiser  # with hooks attached where the method adds modules
    text_encoder: ClipEncoder | None  # None: the backbone's
    footprint: Measured
    artefact: Artefact
    adapters: Attached | None = None  # Receler
    transport: Transport | None = None  # SPM

    def noise_model(
        self, texts: Sequence[str] = (), guidance: float = 1.0, compiled: Compiled | None = None
    ) -> NoiseModel:
        """Return the prediction. `texts` are the prompts of the batch, without which SPM raises ValueError.

        `guidance` is the scale that a distilled network is told. `compiled` is called in place of the network.
        """
        model = noise_model(self.unet, guidance, compiled)
        return model if self.transport is None else self.transport.bind(model, texts)


def apply_artefact(
    pipeline: Pipeline,
    checkpoint: CheckpointRef | str | Mapping[str, torch.Tensor],
    *,
    where: str | None = None,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ErasedModel:
    """Return the erased model of a checkpoint (a path or hub id, resolved, or tensors by name) on this backbone.

    `metadata` is what a file's header would say beside tensors by name. `dtype` is the UNet's; None keeps
    the backbone's. Raises `CheckpointError` when the file is of no known layout, belongs to another model, is not safe to
    read, is not finite, or changes nothing.
    """
    live = backbone_modules(pipeline.unet, pipeline.text_encoder, pipeline.further_encoders)
    if isinstance(checkpoint, Mapping):
        artefact = by_names(in_memory(checkpoint), metadata or {}, None, live, where or "tensors in memory")
    else:
        ref = resolve_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
        artefact = recognise(ref, live)
    footprint = measure(artefact, live)
    unet = _changed(pipeline.unet, artefact.unet, set(footprint.names), dtype or pipeline.unet.dtype)
    encoder = None
    if footprint.text_names:
        live_names = {name.removeprefix("text_model."): name for name in pipeline.text_encoder.state_dict()}
        text = {live_names[name]: tensor for name, tensor in artefact.text.items()}
        wanted = {live_names[name] for name in footprint.text_names}
        encoder = _changed(pipeline.text_encoder, text, wanted, pipeline.text_encoder.dtype)
    adapters = transport = None
    if artefact.adapters:
        flat = {name: tensor.load() for name, tensor in artefact.adapters.items()}
        modules = load_adapters(unet, flat, artefact.where).to(unet.dtype).eval().requires_grad_(False)
        adapters = attach(unet, modules)
    if artefact.spm is not None:
        transport = Transport(unet, artefact.spm, pipeline)
    return ErasedModel(unet, encoder, footprint, artefact, adapters, transport)


def with_changes(module: Part, deltas: Mapping[str, Callable[[], torch.Tensor]]) -> Part:
    """Return a copy of `module` with W + delta for each name, added in float32. Hooks stay, and other tensors are shared."""
    state = module.state_dict()

    def added(name: str) -> torch.Tensor:
        return state[name].float().cpu() + deltas[name]()

    shaped = {name: LazyTensor(tuple(state[name].shape), functools.partial(added, name)) for name in deltas}
    return _changed(module, shaped, set(deltas), module.dtype)


def _changed(module: Part, tensors: LazyTensors, names: set[str], dtype: torch.dtype) -> Part:
    """Return a copy of `module` in `dtype` with some tensors replaced; the others are shared where the dtype allows it."""
    if dtype == module.dtype:
        shared = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}
        changed = copy.deepcopy(module, shared)  # the memo says that the tensors are copied already
    else:
        changed = copy.deepcopy(module).to(dtype)
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = changed.get_submodule(path)
        old = getattr(owner, leaf)
        new = tensors[name].load().to(old.device, old.dtype, copy=True)
        setattr(owner, leaf, nn.Parameter(new, requires_grad=False))
    return changed.eval()
