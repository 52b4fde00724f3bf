"""Make thumbnails for reports. Pictures of sensitive concepts are blurred beyond recovery, or withheld when that fails."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter

from audit.corpus import images

EDGE = 96  # longest edge of a thumbnail in pixels
MOSAIC = 6  # cells along the longest edge that survive blurring
LEVELS = 16  # grey levels a channel keeps in each of those cells
_SMALLEST = 48
_QUALITIES = (85, 70, 55)  # of JPEG
_MAX_BYTES = 64_000_000
_MAX_PIXELS = 64_000_000
_DETAIL_LIMIT = 6.0  # of 255: RMS that a blurred picture may have beyond its own mosaic


class Withheld(Exception):
    """A sensitive picture could not be blurred, so that it is not shown."""


def thumbnail(data: bytes, edge: int = EDGE, most: int | None = None) -> bytes:
    """Return a JPEG of at most `edge` pixels, encoded anew from the decoded pixels, without metadata. Raises on bad bytes.

    With `most` it is made coarser, and then smaller, until it has no more bytes than that or is as coarse as it gets.
    """
    image = _small(data, edge)
    encoded = b""
    for smaller, quality in _steps(edge):
        image.thumbnail((smaller, smaller), Image.Resampling.LANCZOS)
        encoded = _jpeg(image, quality)
        if most is None or len(encoded) <= most:
            break
    return encoded


def _steps(edge: int) -> Iterator[tuple[int, int]]:
    """Yield (longest edge in pixels, JPEG quality), from the finest to the coarsest form of a picture."""
    while edge >= _SMALLEST:
        for quality in _QUALITIES:
            yield edge, quality
        edge = edge * 3 // 4


def blurred_thumbnail(data: bytes) -> bytes:
    """Return a JPEG in which about `MOSAIC` x `MOSAIC` coarse colours are left of the picture.

    Raises `Withheld` whatever goes wrong, and when the result still holds detail.
    """
    try:
        blurred = _blur(_small(data))
        encoded = _jpeg(blurred)
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as written:
            _require_no_detail(written.convert("RGB"))
        return encoded
    except Exception as error:  # fails closed, whatever Pillow raises
        raise Withheld("the picture could not be blurred") from error


def data_uri(jpeg: bytes) -> str:
    """Return a `data:` address that holds the JPEG itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _small(data: bytes, edge: int = EDGE) -> Image.Image:
    image = Image.fromarray(images.decode(data, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS))
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return image


def _mosaic(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    cells = (max(1, round(MOSAIC * image.width / longest)), max(1, round(MOSAIC * image.height / longest)))
    return image.resize(cells, Image.Resampling.BOX)


def _blur(image: Image.Image) -> Image.Image:
    cells = np.asarray(_mosaic(image), dtype=np.uint16)
    step = 256 // LEVELS
    coarse = Image.fromarray((cells // step * step + step // 2).astype(np.uint8))
    large = coarse.resize(image.size, Image.Resampling.BICUBIC)
    return large.filter(ImageFilter.GaussianBlur(max(image.size) / MOSAIC / 2))


def _require_no_detail(image: Image.Image) -> None:
    """Raise when the picture holds more than a mosaic of it does, i.e. when blurring did not blur."""
    smooth = _mosaic(image).resize(image.size, Image.Resampling.BICUBIC)
    difference = np.asarray(image, dtype=np.float64) - np.asarray(smooth, dtype=np.float64)
    rms = float(np.sqrt(np.mean(difference**2)))
    if not rms <= _DETAIL_LIMIT:
        raise Withheld(f"{rms:.1f} grey levels of detail are left")


def _jpeg(image: Image.Image, quality: int = _QUALITIES[0]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
