"""Tensors that are read when they are needed: from safetensors, from pickles that hold only tensors, from live modules.

A 3 GB checkpoint is recognised from its header and compared tensor by tensor, so that it is never in memory as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open

from audit.checkpoints import stored
from audit.checkpoints.archives import DamagedArchive, check_archive
from audit.diffusion.part_weights import piece_of
from audit.errors import CheckpointError
from audit.weights.files import LONGEST_NAME, check_safetensors, unreadable
from audit.weights.original_names import Piece
from audit.weights.references import ModelRef, denoiser_part
from audit.weights.single_file import pieces_of

T = TypeVar("T")
_AGAIN = "download or copy this file again"


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """The shape of a tensor, the function that reads it (onto the CPU), and its form in the file (None: it is in no file)."""

    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    stored: str | None = None

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return int(torch.Size(self.shape).numel())


LazyTensors = Mapping[str, LazyTensor]


FURTHER_ENCODERS = ("text_encoder_2", "text_encoder_3")


@dataclasses.dataclass(frozen=True)
class BackboneTensors:
    """A backbone's tensors. Text-encoder names are without the prefix `text_model.`, which depends on transformers' version."""

    unet: LazyTensors
    text: LazyTensors
    further_text: Mapping[str, LazyTensors] = dataclasses.field(default_factory=dict)  # by part: FURTHER_ENCODERS


def in_memory(tensors: Mapping[str, torch.Tensor]) -> LazyTensors:
    """Return tensors of this process, to be read without gradient and on the CPU."""
    return {name: LazyTensor(tuple(t.shape), functools.partial(_on_cpu, t)) for name, t in tensors.items()}


def from_outside(tensors: Mapping[str, torch.Tensor], where: str) -> LazyTensors:
    """Return the tensors of a file that is already loaded. One that holds no weights is refused when it is read."""
    return {name: _foreign(name, tensor, where) for name, tensor in tensors.items()}


def _foreign(name: str, tensor: torch.Tensor, where: str) -> LazyTensor:
    form = stored.described(tensor)
    shape = () if form.startswith("nested") else tuple(tensor.shape)  # nested tensors have none
    return _checked(name, LazyTensor(shape, lambda: tensor, form), where)


def _checked(name: str, raw: LazyTensor, where: str) -> LazyTensor:
    """Return the tensor, refused by name when it is read and its form is not that of weights."""

    def load() -> torch.Tensor:
        stored.check_stored({name: raw}, where)
        return stored.dense(raw.load())

    return LazyTensor(raw.shape, load, raw.stored)


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()


def bare_text_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return a text encoder's entries by names that transformers 4 and 5 share. The `position_ids` buffer is no weight."""
    return {
        name.removeprefix("text_model."): tensor
        for name, tensor in tensors.items()
        if not name.endswith("embeddings.position_ids")
    }


def backbone_files(ref: ModelRef) -> BackboneTensors:
    """Return the backbone's tensors, read from its files without building a model."""
    further = {part: bare_text_names(_part(ref, part)) for part in FURTHER_ENCODERS}
    return BackboneTensors(_part(ref, denoiser_part(ref.path)), bare_text_names(_part(ref, "text_encoder")), further)


def _part(ref: ModelRef, part: str) -> LazyTensors:
    if ref.single is not None and part in ref.single.prefixes:
        return in_pieces(from_safetensors(ref.single.path)[0], pieces_of(ref.single, part)[0])
    return from_shards([ref.path / name for name in ref.files if name.startswith(f"{part}/")])


def in_pieces(tensors: LazyTensors, pieces: Mapping[str, Piece]) -> LazyTensors:
    """Return the tensors of a network that are these pieces of the tensors in a file."""

    def load(piece: Piece) -> torch.Tensor:
        return piece_of(tensors[piece.source].load(), piece)

    return {
        name: LazyTensor(
            piece.shape(tensors[piece.source].shape), functools.partial(load, piece), tensors[piece.source].stored
        )
        for name, piece in pieces.items()
    }


def backbone_modules(
    unet: torch.nn.Module, text_encoder: torch.nn.Module, further: Mapping[str, torch.nn.Module] | None = None
) -> BackboneTensors:
    """Return the tensors of a loaded backbone; `further` are its text encoders beside the first, by part."""

    def text(module: torch.nn.Module) -> LazyTensors:
        return bare_text_names(in_memory(module.state_dict()))

    others = {part: text(module) for part, module in (further or {}).items()}
    return BackboneTensors(in_memory(unet.state_dict()), text(text_encoder), others)


def from_shards(paths: Sequence[Path]) -> LazyTensors:
    """Return all tensors of one or several safetensors files."""
    tensors: dict[str, LazyTensor] = {}
    for path in paths:
        tensors.update(from_safetensors(path)[0])
    return tensors


def from_safetensors(path: Path) -> tuple[LazyTensors, Mapping[str, str]]:
    """Return the file's tensors and its metadata. Raises `CheckpointError` when it is unreadable, truncated or malformed."""
    names = check_safetensors(path)
    try:
        file = safe_open(str(path), framework="pt", device="cpu")
        slices = {name: file.get_slice(name) for name in names}
        shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        kinds = {name: stored.of_safetensors(str(piece.get_dtype())) for name, piece in slices.items()}
        metadata = dict(file.metadata() or {})
    except Exception as error:  # Rust's errors, and Python's for a dtype that torch lacks
        raise _broken(path, f"it is no valid safetensors file ({_first(error)})") from None
    return {
        name: _checked(
            name, LazyTensor(shapes[name], functools.partial(_tensor, file, name, path), kinds[name]), str(path)
        )
        for name in names
    }, metadata


def header_metadata(blob: bytes) -> Mapping[str, str]:
    """Return the metadata in the header of a safetensors file of ours, from its bytes."""
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    metadata: Mapping[str, str] = header.get("__metadata__", {})
    return metadata


def _tensor(file: safe_open, name: str, path: Path) -> torch.Tensor:
    try:
        tensor: torch.Tensor = file.get_tensor(name)
    except Exception as error:  # as above
        raise _broken(path, f"its tensor {name} cannot be read ({_first(error)})") from None
    return tensor


def from_pickle(path: Path) -> object:
    """Return the content of a pickle, loaded with `weights_only=True` and mapped into memory where the format allows it.

    Raises `CheckpointError` for a pickle that needs more than tensors and plain containers; none of its code is run.
    """
    _check_archive(path)
    content = _loaded(path)
    _check_names(path, content)
    return content


def _loaded(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and rare kinds of tensors, which are judged by us
            try:
                if path.suffix == ".safetensors":  # by that name PyTorch would not take it for a pickle
                    with path.open("rb") as stream:
                        return torch.load(stream, map_location="cpu", weights_only=True)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)  # files from before torch 1.6
    except pickle.UnpicklingError as error:
        if _is_pickle(path) and "unsupported" in str(error).lower():
            raise _needs_code(path, str(error)) from None
        raise _broken(path, "it is no PyTorch file") from None
    except Exception as error:  # damaged pickles make PyTorch and Python raise nearly anything
        raise _broken(path, f"it is no whole PyTorch file ({_first(error)})") from None


def _check_names(path: Path, content: object, depth: int = 3) -> None:
    """Return when no tensor that a layout could hold has a name longer than names are."""
    if depth == 0 or not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(name, str) and len(name) > LONGEST_NAME:
            raise _broken(path, f"it names an entry by {len(name)} characters")
        _check_names(path, value, depth - 1)


def _check_archive(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            check_archive(stream, path.stat().st_size)
    except OSError as error:
        raise unreadable(path, error) from None
    except DamagedArchive as error:
        raise CheckpointError(
            f"the file {path.name} is not read: {error}",
            where=str(path),
            next_step="save it again with torch.save, or as safetensors",
        ) from None
    except Exception as error:  # `zipfile` and `pickletools` raise several kinds on damaged bytes
        raise _broken(path, f"it is no whole PyTorch file ({_first(error)})") from None


def shown(value: object) -> str:
    """Return a value from a file as a message shows it, at most 40 characters long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _is_pickle(path: Path) -> bool:
    """Return whether the file begins as PyTorch's zip archives or as a pickle of protocol 2 and later does."""
    with path.open("rb") as stream:
        start = stream.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def _needs_code(path: Path, message: str) -> CheckpointError:
    match = re.search(r"GLOBAL ([\w.]+)", message)
    what = f"it asks for {match[1]}" if match else "it holds more than tensors and plain containers"
    return CheckpointError(
        f"the file {path.name} is a pickle that could run code when it is loaded ({what}), so it is refused; "
        "nothing of it was run",
        where=str(path),
        next_step="ask its author for safetensors, or extract its state dict in an isolated environment",
    )


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint cannot be used: {why}", where=str(path), next_step=_AGAIN)
