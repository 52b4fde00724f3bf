"""Tensors that are read when they are needed: from safetensors, from pickles that hold only tensors, from live modules.

A 3 GB checkpoint is recognised from its header and compared tensor by tensor, so it is never in memory as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from audit.errors import CheckpointError
from audit.model_refs import ModelRef
from audit.weight_files import check_safetensors, unreadable

_AGAIN = "download or copy this file again"
_START = 16  # bytes that tell the containers apart


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor's shape, and the call that reads it (CPU)."""

    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(torch.Size(self.shape).numel())


LazyTensors = Mapping[str, LazyTensor]


@dataclasses.dataclass(frozen=True)
class BackboneTensors:
    """What a checkpoint is compared with. Text-encoder names carry no `text_model.` prefix, whatever transformers says."""

    unet: LazyTensors
    text: LazyTensors


def in_memory(tensors: Mapping[str, torch.Tensor]) -> LazyTensors:
    """Tensors that are there already; read without gradient and on the CPU."""
    return {name: LazyTensor(tuple(t.shape), functools.partial(_on_cpu, t)) for name, t in tensors.items()}


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()


def bare_text_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder's tensors by names that transformers 4 and 5 share; the `position_ids` buffer is no weight."""
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if not name.endswith("embeddings.position_ids")
    }


def backbone_files(ref: ModelRef) -> BackboneTensors:
    """The backbone's tensors, read from its files without building a model."""
    return BackboneTensors(
        unet=from_shards([ref.path / name for name in ref.files if name.startswith("unet/")]),
        text=bare_text_names(from_shards([ref.path / n for n in ref.files if n.startswith("text_encoder/")])),
    )


def backbone_modules(unet: torch.nn.Module, text_encoder: torch.nn.Module) -> BackboneTensors:
    """The tensors of a loaded backbone."""
    return BackboneTensors(in_memory(unet.state_dict()), bare_text_names(in_memory(text_encoder.state_dict())))


def from_shards(paths: Sequence[Path]) -> LazyTensors:
    """All tensors of one or several safetensors files."""
    found: dict[str, LazyTensor] = {}
    for path in paths:
        found.update(from_safetensors(path)[0])
    return found


def from_safetensors(path: Path) -> tuple[LazyTensors, Mapping[str, str]]:
    """The file's tensors and its metadata. Raises `CheckpointError` when it is unreadable, truncated or malformed."""
    names = check_safetensors(path)
    try:
        file = safe_open(str(path), framework="pt", device="cpu")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _broken(path, f"it is no valid safetensors file ({error})") from None
    return {name: LazyTensor(shapes[name], functools.partial(file.get_tensor, name)) for name in names}, metadata


def is_safetensors(path: Path) -> bool:
    """Whether a file is, or claims to be, safetensors; a Git LFS pointer counts, so that its check can say so."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except OSError as error:
        raise unreadable(path, error) from None
    return path.suffix == ".safetensors" or start[8:9] == b"{" or start.startswith(b"version ")


def from_pickle(path: Path) -> Any:
    """What a pickle holds, loaded with `weights_only=True` and mapped into memory where the format allows it.

    Raises `CheckpointError` for a pickle that needs more than tensors and plain containers; none of its code is run.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # files from before torch 1.6
    except pickle.UnpicklingError as error:
        if _is_pickle(path):
            raise _needs_code(path, str(error)) from None
        raise _broken(path, "it is no PyTorch file") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _broken(path, f"it is no whole PyTorch file ({first[:160]})") from None


def _is_pickle(path: Path) -> bool:
    """Whether the file begins as PyTorch's zip archives or as a pickle of protocol 2 and later does."""
    with path.open("rb") as stream:
        start = stream.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def _needs_code(path: Path, message: str) -> CheckpointError:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    what = f"it asks for {found[1]}" if found else "it holds more than tensors and plain containers"
    return CheckpointError(
        f"the file {path.name} is a pickle that could run code when it is loaded ({what}), so it is refused; "
        "nothing of it was run",
        where=str(path),
        next_step="ask its author for safetensors, or extract its state dict in an isolated environment",
    )


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint cannot be used: {why}", where=str(path), next_step=_AGAIN)
