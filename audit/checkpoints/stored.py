"""Decide by their storage which tensors from outside are read as weights, and refuse the others by name.

Weights are dense floating-point tensors. Those of eight bits are read as float32, exactly; without scales beside them
they are plain numbers. Integers, booleans, complex numbers, quantised, sparse and nested tensors, and tensors without
values (on the meta device) are no weights, whatever file they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from audit.errors import CheckpointError
from audit.weights.scales import is_scale

FP8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_READ = ("float64", "float32", "float16", "bfloat16", *FP8)
_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")  # read where one stands alone
_VALUELESS = "on the meta device, without values"
_LARGEST = 2**28  # elements; twice what the largest layer of SDXL has
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
}  # fmt: skip
_EIGHT_BITS = ("int8", "uint8", "float8_e8m0fnu", "F4")
NEXT = "save it as float32, float16 or bfloat16, dense, with the code that wrote it"


class Stored(Protocol):
    """A tensor with a description of its storage; None when it was never in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the tensor's dimensions."""

    @property
    def stored(self) -> str | None:
        """Return the dtype and, where the tensor is not dense or has no values, its kind."""


def described(tensor: torch.Tensor) -> str:
    """Return the storage of a tensor: its dtype alone for a dense one with values, else its kind."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__} of {dtype}"
    if tensor.is_quantized:
        return f"quantised {dtype}"
    if tensor.is_nested:
        return f"nested {dtype}"
    if tensor.layout is not torch.strided:
        return f"sparse {dtype}"
    if tensor.is_meta:
        return f"{dtype} {_VALUELESS}"
    # A view may say that one number is a million: what it would take in memory is not what the file holds.
    return f"{dtype} of {tensor.numel()} numbers" if tensor.numel() > _LARGEST else dtype


def is_weights(kind: str) -> bool:
    """Return whether tensors of this storage are read as weights."""
    return kind in _READ


def of_safetensors(dtype: str) -> str:
    """Return PyTorch's name of a dtype in a safetensors header."""
    return _SAFETENSORS.get(dtype, dtype)


def check_stored(tensors: Mapping[str, Stored], where: str, values: bool = True) -> None:
    """Check that every tensor can be read as weights. Raises `CheckpointError` for the first that cannot.

    A single integer is read too: trainers store a LoRA's alpha so. A quantised file is refused as such. Without
    `values`, only names and shapes are needed.
    """
    bad = [name for name, tensor in tensors.items() if not _is_read(tensor, values)]
    if not bad:
        return
    check_not_quantised(tensors, where)
    raise CheckpointError(
        f"the tensor {bad[0]} is {tensors[bad[0]].stored}, and weights are dense floating-point tensors",
        where=where,
        next_step=NEXT,
    )


def _is_read(tensor: Stored, values: bool) -> bool:
    if not values and tensor.stored is not None and tensor.stored.endswith(_VALUELESS):
        return True
    return tensor.stored in (None, *_READ) or (tensor.shape in ((), (1,)) and tensor.stored in _NUMBERS)


def check_not_quantised(tensors: Mapping[str, Stored], where: str) -> None:
    """Raise `CheckpointError` when names or dtypes show weights that are meaningless without the code that quantised them."""
    scales = [name for name in tensors if is_scale(name)]
    small = [name for name, tensor in tensors.items() if (tensor.stored or "").startswith((*_EIGHT_BITS, "quantised"))]
    if not scales and 2 * _numbers(tensors[name] for name in small) < max(_numbers(tensors.values()), 1):
        return
    found = f"{len(small)} of its {len(tensors)} tensors are {tensors[small[0]].stored}" if small else ""
    beside = f"scales are beside them ({scales[0]})" if scales else ""
    raise CheckpointError(
        f"the file is quantised: {' and '.join(filter(None, (found, beside)))}",
        where=where,
        next_step="load it with the code that quantised it, and save the model as float32, float16 or bfloat16",
    )


def _numbers(tensors: Iterable[Stored]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def kinds(tensors: Iterable[Stored]) -> dict[str, int]:
    """Return the number of tensors by storage; those of this process are left out."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if tensor.stored is not None:
            counts[tensor.stored] = counts.get(tensor.stored, 0) + 1
    return dict(sorted(counts.items()))


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values of a readable tensor, without gradient and without attributes that a pickle attached to it."""
    values = torch.Tensor.detach(tensor)
    return values.to(torch.float32) if str(values.dtype).removeprefix("torch.") in FP8 else values
