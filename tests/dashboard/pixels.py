"""Pictures full of detail, one for each address, and a perceptual hash that tells a picture from its blurred copy."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from audit.identity import int_key
from audit.storage.pictures import Address

SIDE, BITS = 24, 24 * 24
CLOSE = BITS // 5  # bits that may differ between a picture and a smaller JPEG of it
_DATA_URI = re.compile(r"data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)")


def picture(address: Address) -> bytes:
    """A PNG of coloured fields that no other address has."""
    return _drawn(address.unit_key, address.image_id)


@functools.lru_cache(maxsize=4096)
def _drawn(unit_key: str, image_id: int) -> bytes:
    random = np.random.default_rng(abs(int_key(f"{unit_key} {image_id}")))
    fields = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(fields).resize((240, 240), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def difference_hash(data: bytes) -> np.ndarray:
    """Which of two fields beside each other is brighter, as bits (dHash)."""
    with Image.open(io.BytesIO(data)) as image:
        small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel()


def images_in(text: str) -> Iterator[bytes]:
    """Every picture in a data URI of a text."""
    for found in _DATA_URI.finditer(text):
        yield base64.b64decode(found[1])


def images_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every picture in a file, or in a data URI of one."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n":
            yield path.name, data
        for image in images_in(data.decode("utf-8", "replace")):
            yield path.name, image


def is_copy(data: bytes, originals: np.ndarray) -> bool:
    """Whether a picture is one of those whose hashes are the rows of `originals`."""
    return bool((np.count_nonzero(originals != difference_hash(data), axis=1) <= CLOSE).any())
