"""ONNX files written by hand in protobuf's wire format: a network of one flattening and one matrix product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _int(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _number(field << 3 | 2) + _number(len(data)) + data


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(_bytes(1, _int(1, size) if isinstance(size, int) else _bytes(2, size)) for size in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _int(1, 1) + _bytes(2, dims)))


def _node(kind: str, inputs: tuple[str, ...], output: str) -> bytes:
    return b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind)


def write_recogniser(path: Path, matrix: npt.NDArray[np.float32], side: int, channels: int = 3) -> Path:
    """Write a network that reads pictures (1, channels, side, side) and writes their product with `matrix`, (1, D)."""
    tensor = _int(1, matrix.shape[0]) + _int(1, matrix.shape[1]) + _int(2, 1) + _bytes(8, "matrix")
    graph = (
        _bytes(1, _node("Flatten", ("faces",), "flat"))
        + _bytes(1, _node("MatMul", ("flat", "matrix"), "vectors"))
        + _bytes(2, "recogniser")
        + _bytes(5, tensor + _bytes(9, np.ascontiguousarray(matrix, "<f4").tobytes()))
        + _bytes(11, _value("faces", (1, channels, side, side)))
        + _bytes(12, _value("vectors", (1, matrix.shape[1])))
    )
    path.write_bytes(_int(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _int(2, 13)))
    return path
