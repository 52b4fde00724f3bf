"""Compute content keys: the same inputs give the same key on every machine, and any changed field gives another one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from json.encoder import encode_basestring
from pathlib import Path

from pydantic import JsonValue

# Packages and modules whose text decides what a unit computes. What plans, stores, folds, judges or reports is not here:
# changing it recomputes nothing. A test walks the imports of each stage and fails when a module is missing.
_MODELS = (
    "compute.models",
    "compute.prefixes",
    "compute.relearned",
    "compute.stages.inputs",
    "diffusion",
    "checkpoints",
    "guards.building",
    "guards.parameters",
    "weights.schedulers",
    "weights.settings",
)
_BATCHES = ("compute.stages.batching", "compute.stages.overlap", "diffusion.devices")
_CODE: Mapping[str, tuple[str, ...]] = {
    "erase": ("compute.stages.erase", *_BATCHES, "erasers", *_MODELS),
    "attack": (
        "compute.stages.attack", *_BATCHES, "compute.personalised", "attacks", "corpus", "spec.content",
        *_MODELS,
    ),
    "invert": ("compute.stages.invert", *_BATCHES, "corpus", *_MODELS),
    "generate": (
        "compute.stages.generate", "compute.stages.picture_rows", "compute.stages.pictured", "compute.stages.round_trips",
        "compute.stages.attacked", "compute.stages.invert",
        "compute.stages.guided", "attacks.classifier_guidance", "instruments.differentiable_clip",
        *_BATCHES, "compute.personalised", "guards", "corpus", "instruments.detectors.folders", *_MODELS,
    ),
    "filter": (
        "compute.stages.filter", "compute.stages.attacked", "compute.stages.inputs", *_BATCHES, "filters",
        "guards.parameters", "instruments.detectors", "diffusion.strict_loading", "diffusion.text",
        "diffusion.placeholder_tokens", "corpus.images",
    ),
    "detect": (
        "compute.stages.detect", *_BATCHES, "instruments.detectors", "diffusion.strict_loading",
        "diffusion.text", "corpus.images", "corpus.sources",
    ),
    "quality": (
        "compute.stages.quality", *_BATCHES, "instruments.quality", "instruments.detectors", "corpus",
        "diffusion.strict_loading", "diffusion.text",
    ),
}  # fmt: skip

# Their arithmetic is part of every result. Detectors name what else they use (onnxruntime, nudenet) in their instrument.
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> str:
    """Return JSON text that is equal exactly when the values are equal: sorted keys, no spaces, shortest float form.

    Raises TypeError for a type without a stable text and ValueError for NaN or infinity.
    """
    return _ENCODER.encode(_plain(value))


def canonical_json(value: JsonValue) -> str:
    """Return what `canonical` does, for a value of JSON's own types, which are not looked at one by one.

    Raises ValueError for NaN or infinity.
    """
    return _ENCODER.encode(value)


class Template:
    """The canonical JSON of objects that share most of their fields."""

    def __init__(self, shared: Mapping[str, JsonValue], own: Sequence[str]) -> None:
        """Prepare objects with the fields `shared`, and with `own` ones whose values come later."""
        texts = {name: canonical_json(value).replace("%", "%%") for name, value in shared.items()} | dict.fromkeys(
            own, "%s"
        )
        self._form = "{" + ",".join(f"{_name(name)}:{texts[name]}" for name in sorted(texts)) + "}"
        self._order = sorted(range(len(own)), key=lambda n: own[n])

    def fill(self, values: Sequence[JsonValue]) -> str:
        """Return the text of the object whose own fields have `values`, in the order in which they were named."""
        return self._form % tuple(_scalar(values[n]) for n in self._order)


def _name(name: str) -> str:
    return encode_basestring(name).replace("%", "%%")


def _scalar(value: JsonValue) -> str:
    if value is None:
        return "null"
    return encode_basestring(value) if type(value) is str else _ENCODER.encode(value)


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of an identity")
        return value
    if value is None or isinstance(value, bool | int | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("identity mappings need string keys")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be part of an identity")


def key(value: object) -> str:
    """Return the hex SHA-256 of `canonical(value)`."""
    return key_of_text(canonical(value))


def key_of_text(text: str) -> str:
    """Return the hex SHA-256 of a value's canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()


def int_key(value: object) -> int:
    """Return a 63-bit integer from `key(value)`. It fits DuckDB's BIGINT; the plan checks for collisions."""
    return int_key_of_text(canonical(value))


def int_key_of_text(text: str) -> int:
    """Return the 63-bit integer of a value's canonical text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def file_sha256(path: Path, block_read: Callable[[], object] = lambda: None) -> str:
    """Return the hex SHA-256 of a file's bytes, read in 1 MiB blocks; `block_read` is called after each."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            block_read()
    return digest.hexdigest()


def source_digests(names: Sequence[str]) -> dict[str, str]:
    """Return path below this package -> hex SHA-256, for every source file of the modules and packages `names`."""
    root = Path(__file__).parent
    files: list[Path] = []
    for name in names:
        path = root.joinpath(*name.split("."))
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return {str(path.relative_to(root)): file_sha256(path) for path in files}


@functools.cache
def code_digest(kind: str) -> str:
    """Return the hex SHA-256 over the source files and the library versions that decide what units of `kind` compute."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return key({"sources": source_digests(_CODE[kind]), "libraries": libraries})
