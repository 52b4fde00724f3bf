"""Check a file of `torch.save` before PyTorch reads it: its archive's size, and the names that it asks for.

PyTorch runs a regular expression over its message about a refused name, whose time grows with the square of the name's
length: a name of 40 kilobytes takes half a minute, one of megabytes takes days.
"""

from __future__ import annotations

import pickletools
import zipfile
from typing import IO

_LONGEST = 1000  # characters of a class's name
_LEGACY = 5  # pickles at the start of a file from before zip archives: magic, protocol, system, content, keys


class DamagedArchive(ValueError):
    """A file that PyTorch must not be given; the message says why."""


def check_archive(stream: IO[bytes], size: int) -> None:
    """Check that PyTorch can read the file of `size` bytes in bounded time and memory, and rewind the stream.

    Raises `DamagedArchive`, and the exceptions of `zipfile` and `pickletools` on damaged bytes.
    """
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            whole = sum(entry.file_size for entry in entries)
            if whole > size:
                raise DamagedArchive(f"it unpacks to {whole} bytes, more than it holds: PyTorch never compresses one")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    with archive.open(entry) as pickled:
                        _check_names(pickled)
    else:
        stream.seek(0)
        for _ in range(_LEGACY):
            _check_names(stream)
    stream.seek(0)


def _check_names(pickled: IO[bytes]) -> None:
    """Return when every name in one pickle is of a length that names have."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST") and len(str(argument)) > _LONGEST:
            raise DamagedArchive(f"it asks for a name of {len(str(argument))} characters")
