"""Model files on disk: choose the weights that would be loaded, check that they are whole, and hash each file once only."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import re
import stat
import struct
import time
from pathlib import Path
from typing import TypeGuard

from audit import locations
from audit.errors import CheckpointError
from audit.files import Document, ForeignError, open_regular, parse_json, place, read_bounded, shared
from audit.identity import file_sha256
from audit.progress.steps import Step

_MAX_HEADER_BYTES = 25_000_000  # the format allows four times as much; a model of a thousand tensors needs a hundredth
LONGEST_NAME = 500  # characters of a tensor's name; real ones have up to 150
_MAX_JSON_BYTES = 10_000_000
_SETTLED_SECONDS = 2.0  # a file changed more recently may change again within its timestamp's resolution
VARIANTS = ("fp16", "bf16")  # weight files of half precision, by the name that their writers give them
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Stored:
    """The dtype and shape of one tensor, as a file's header gives them."""

    dtype: str  # as safetensors writes it: F16, F32, F8_E4M3
    shape: tuple[int, ...]


def check_safetensors(path: Path) -> tuple[str, ...]:
    """Return the sorted names of the tensors in a safetensors file, from its header alone.

    Raises `CheckpointError` as `safetensors_header` does.
    """
    return tuple(sorted(safetensors_header(path)))


def safetensors_header(path: Path) -> dict[str, Stored]:
    """Return dtype and shape of each tensor from the header of a safetensors file, by name.

    Raises `CheckpointError` when the file is unreadable, a Git LFS pointer, not safetensors, or shorter or longer than
    its header says.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
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
    except ForeignError as error:
        raise _broken(path, str(error)) from None
    if len(text) < length:
        raise _broken(path, "it ends inside its header")
    tensors, end = _parse_header(path, text)
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "too long"
        raise _broken(path, f"it is {state}: {size} bytes, the header announces {8 + length + end}")
    return tensors


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a weight file that the operating system does not let us read."""
    return CheckpointError(
        f"the weight file cannot be read: {error.strerror or error}",
        where=str(error.filename or path),
        next_step="check that it exists and that you may read it and everything above it",
    )


def _parse_header(path: Path, text: bytes) -> tuple[dict[str, Stored], int]:
    try:
        header = parse_json(text)
    except ForeignError as error:
        raise _broken(path, f"its header is not valid: {error}") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is not valid")
    tensors, ends = {}, [0]
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if len(name) > LONGEST_NAME:
            raise _broken(path, f"its header is not valid: it names a tensor by {len(name)} characters")
        described = entry if isinstance(entry, dict) else {}
        dtype, shape, offsets = (described.get(field) for field in ("dtype", "shape", "data_offsets"))
        if not (isinstance(dtype, str) and _sizes(shape) and _sizes(offsets) and len(offsets) == 2):
            raise _broken(path, f"its header is not valid: it does not describe {name[:80]!r}")
        tensors[name] = Stored(dtype, tuple(shape))
        ends.append(offsets[1])
    return tensors, max(ends)


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the weight file is not a whole safetensors file: {why}",
        where=str(path),
        next_step="download or copy this file again",
    )


def loaded_weights(folder: Path) -> tuple[list[Path], str | None]:
    """Return the safetensors files that hold the weights of one model folder, and their variant: None, `fp16` or `bf16`,
    the first of them that is there.

    They are hashed, inspected and loaded, and nothing else is. Raises `CheckpointError` when there are none, only
    pickles, several that could be meant, or an index that names files elsewhere.
    """
    for variant in (None, *VARIANTS):
        files = [folder / name for name in _weight_names(variant) if (folder / name).is_file()]
        if len(files) > 1:
            raise CheckpointError(
                f"the folder holds its weights more than once ({', '.join(path.name for path in files)}), and libraries "
                "differ in which they load",
                where=str(folder),
                next_step="keep the one that is meant, and move the others away, with the files that an index names",
            )
        if files:
            return (files if files[0].suffix == ".safetensors" else _shards(files[0])), variant
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


def _weight_names(variant: str | None) -> list[str]:
    """Return the names under which diffusers and transformers write one file or the index of several."""
    tag = f".{variant}" if variant else ""
    names = []
    for stem in ("diffusion_pytorch_model", "model"):
        names.append(f"{stem}{tag}.safetensors")
        # Two are diffusers' names for the index of a variant, now and before 0.30; the third is that of other writers.
        indices = (".safetensors.index{}.json", ".safetensors{}.index.json", "{}.safetensors.index.json")
        names += dict.fromkeys(stem + index.format(tag) for index in indices)
    return names


def _shards(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError("the weight index is malformed", where=str(index), next_step="download it again")
    names = sorted(set(listed.values()))
    unsafe = [
        name[:200]
        for name in names
        if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name or len(name) > 200
    ]
    if unsafe or not names:
        raise CheckpointError(
            f"the weight index names a file outside its folder: {unsafe[:1]}"
            if unsafe
            else "the weight index is empty",
            where=str(index),
            next_step="do not use this model unless you trust its source; download it again",
        )
    return [index.parent / name for name in names]


def read_json(path: Path) -> Document:
    """Return a model's JSON object; raises `CheckpointError` when it is missing, malformed or out of all bounds."""
    try:
        value = parse_json(read_bounded(path, _MAX_JSON_BYTES))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"the configuration file cannot be read: {reason}",
            where=str(path),
            next_step="download or copy the whole model folder",
        ) from None
    except ForeignError as error:
        raise CheckpointError(
            f"the configuration file cannot be used: {error}",
            where=str(path),
            next_step="download it again",
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(
            "the configuration file cannot be used: it is not valid JSON of an object",
            where=str(path),
            next_step="download it again",
        )
    return value


def cached_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, remembered in the user's cache folder as long as the file is untouched.

    The entry is keyed by resolved path, size, modification and change time, so that gigabytes are not read again for
    each plan. Without a writable cache folder the file is simply read. Raises `CheckpointError` when it is unreadable.
    """
    try:
        resolved = path.resolve(strict=True)
        before = resolved.stat()
        if not stat.S_ISREG(before.st_mode):
            raise CheckpointError(
                "this is no file that could be read (a folder, a named pipe or a device)",
                where=str(path),
                next_step="name a regular file",
            )
        facts = (str(resolved), before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        entry = _cache_folder() / hashlib.sha256(repr(facts).encode()).hexdigest()
        known = _remembered(entry)
        if known is not None:
            return known
        with Step(f"hash {path.name}", math.ceil(before.st_size / 2**20), "MiB") as step:
            digest = file_sha256(resolved, step.advance)
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
        place(entry, lambda unfinished: unfinished.write_text(digest, encoding="ascii"), unfinished=shared(entry))
