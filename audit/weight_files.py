"""Model files on disk: which weights would be loaded, proof that they are whole, digests computed only once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from audit import locations
from audit.errors import CheckpointError
from audit.identity import file_sha256

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_SETTLED_SECONDS = 2.0  # a file changed more recently may change again within its timestamp's resolution
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_HEX = re.compile(r"[0-9a-f]{64}")


def check_safetensors(path: Path) -> tuple[str, ...]:
    """Names of the tensors in a safetensors file, from its header alone.

    Raises `CheckpointError` when the file is unreadable, a Git LFS pointer, not safetensors, or shorter or longer than
    its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            if start == b"version ":  # first word of a Git LFS pointer
                raise CheckpointError(
                    "the weight file is a Git LFS pointer, not the weights",
                    where=str(path),
                    next_step="run 'git lfs pull' in that folder",
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise _broken(path, "it has no safetensors header")
            text = stream.read(length)
    except OSError as error:
        raise unreadable(path, error) from None
    if len(text) < length:
        raise _broken(path, "it ends inside its header")
    names, end = _parse_header(path, text)
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "too long"
        raise _broken(path, f"it is {state}: {size} bytes, the header announces {8 + length + end}")
    return names


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a weight file that the operating system does not let us read."""
    return CheckpointError(
        f"the weight file cannot be read: {error.strerror or error}",
        where=str(error.filename or path),
        next_step="check that it exists and that you may read it and everything above it",
    )


def _parse_header(path: Path, text: bytes) -> tuple[tuple[str, ...], int]:
    try:
        header = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _broken(path, "its header is not valid") from None
    return tuple(sorted(tensors)), end


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the weight file is not a whole safetensors file: {why}",
        where=str(path),
        next_step="download or copy this file again",
    )


def loaded_weights(folder: Path) -> tuple[list[Path], str | None]:
    """The safetensors files that `from_pretrained` would load from one folder, and their variant (None or `fp16`).

    Raises `CheckpointError` when there are none, only pickles, or an index that names files elsewhere.
    """
    for variant in (None, "fp16"):
        tag = f".{variant}" if variant else ""
        for stem in ("diffusion_pytorch_model", "model"):
            if (folder / f"{stem}{tag}.safetensors").is_file():
                return [folder / f"{stem}{tag}.safetensors"], variant
            index = folder / f"{stem}.safetensors.index{tag}.json"
            if index.is_file():
                return _shards(index), variant
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"the weights exist only as pickles ({', '.join(pickles[:3])}), which can run code when they are loaded",
            where=str(folder),
            next_step="convert to safetensors where you trust the source: load it once, then save_pretrained(FOLDER)",
        )
    raise CheckpointError(
        "the model folder has no weight file (model.safetensors or diffusion_pytorch_model.safetensors)",
        where=str(folder),
        next_step="download or copy the whole model folder",
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        unsafe = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (KeyError, AttributeError, TypeError):
        raise CheckpointError(
            "the weight index is malformed", where=str(index), next_step="download it again"
        ) from None
    if unsafe or not names:
        raise CheckpointError(
            f"the weight index names a file outside its folder: {unsafe[:1]}"
            if unsafe
            else "the weight index is empty",
            where=str(index),
            next_step="do not use this model unless you trust its source; download it again",
        )
    return [index.parent / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A model's JSON object; raises `CheckpointError` when it is missing or malformed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"the configuration file cannot be read: {reason}",
            where=str(path),
            next_step="download or copy the whole model folder",
        ) from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(
            "the configuration file is not valid JSON", where=str(path), next_step="download it again"
        )
    return value


def cached_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, remembered in the user's cache folder as long as the file is untouched.

    The entry is keyed by resolved path, size, modification and change time, so that gigabytes are not read again for
    each plan. Without a writable cache folder the file is simply read. Raises `CheckpointError` when it is unreadable.
    """
    try:
        resolved = path.resolve(strict=True)
        before = resolved.stat()
        facts = (str(resolved), before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        entry = _cache_folder() / hashlib.sha256(repr(facts).encode()).hexdigest()
        known = _remembered(entry)
        if known is not None:
            return known
        digest = file_sha256(resolved)
    except OSError as error:
        raise unreadable(path, error) from None
    if time.time() - max(before.st_mtime, before.st_ctime) > _SETTLED_SECONDS:
        _remember(entry, digest)
    return digest


def _cache_folder() -> Path:
    return locations.cache_folder() / "sha256"


def _remembered(entry: Path) -> str | None:
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if _HEX.fullmatch(text) else None


def _remember(entry: Path, digest: str) -> None:
    with contextlib.suppress(OSError):  # a read-only home costs time, not correctness
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(digest)
        Path(name).replace(entry)
