"""Arrays that authors publish as pickles: read without running anything of theirs, or from safetensors."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from audit.files import ForeignError, read_bounded

FloatArray: TypeAlias = npt.NDArray[np.float64]

MAX_BYTES = 10_000_000
_LFS = b"version https://git-lfs"


class UnusableArray(ValueError):
    """A file that holds no array of numbers; the message says why."""


def read_array(path: Path) -> FloatArray:
    """Return the one array of a safetensors file, of a `torch.save` file or of a plain pickle, in double precision.

    Raises `UnusableArray` for a file that cannot be read, holds anything else, or asks for code.
    """
    try:
        data = read_bounded(path, MAX_BYTES)
    except (ForeignError, OSError) as error:
        raise UnusableArray(getattr(error, "strerror", None) or str(error)) from None
    if data.startswith(_LFS):
        raise UnusableArray("it is a Git LFS pointer; run 'git lfs pull' in its folder")
    try:
        content = _content(path, data)
        array = np.asarray(content)
    except UnusableArray:
        raise
    except Exception as error:  # damaged bytes make the parsers raise nearly anything
        raise UnusableArray(f"it is damaged ({str(error)[:200] or type(error).__name__})") from None
    if array.dtype.kind != "f":
        raise UnusableArray("it holds no array of floating-point numbers")
    return array.astype(np.float64)


def _content(path: Path, data: bytes) -> object:
    if path.suffix == ".safetensors":
        tensors = safetensors.numpy.load(data)
        if len(tensors) != 1:
            raise UnusableArray(f"it holds {len(tensors)} tensors, not one")
        return next(iter(tensors.values()))
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _saved_by_torch(data)
    return _ArrayReader(io.BytesIO(data)).load()


def _saved_by_torch(data: bytes) -> object:
    import torch

    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _needs_code(f"it asks for {asked[1][:80]}" if asked else "it holds more than a tensor") from None
    return content.detach().double().numpy() if isinstance(content, torch.Tensor) else content


class _ArrayReader(pickle.Unpickler):
    """A reader of pickles that makes numpy arrays, numbers, texts and plain containers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> object:
        maker = _MAKERS.get((module.replace("numpy._core", "numpy.core"), name))
        if maker is None:
            raise _needs_code(f"it asks for {module[:80]}.{name[:80]}")
        return maker


class _Array:
    """Stands for numpy's array where a pickle names it, so that none of any size can be asked for."""


def _latin1(text: str, encoding: str) -> bytes:
    """Return the bytes that old protocols write as text."""
    if encoding != "latin1":
        raise UnusableArray("it is damaged (bytes in another encoding than latin1)")
    return text.encode("latin1")


def _empty(kind: object, shape: object, typecode: object) -> npt.NDArray[np.uint8]:
    """Return the empty array that the pickle's next lines fill; its arguments are always these."""
    if kind is not _Array or shape != (0,):
        raise UnusableArray("it is damaged (an array of another kind)")
    return np.empty(0, np.uint8)


def _from_buffer(data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: str) -> object:
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


_MAKERS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


def _needs_code(what: str) -> UnusableArray:
    return UnusableArray(
        f"it is a pickle that could run code when it is loaded ({what}), so it is refused; nothing of it was run"
    )
