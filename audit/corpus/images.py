"""Decode, hash, encode and scale pictures. A picture is a `uint8` array of height x width x 3 in RGB.

One decoding route serves every consumer, because detectors read different numbers from differently decoded files.
Embedded colour profiles are ignored: pixels are taken as sRGB, as every model here was trained.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from audit.errors import CorpusError

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

BLACK_LEVEL = 8  # of 255: a picture whose brightest value does not exceed this shows nothing on a screen
CONSTANT_STD = 1.0  # of 255: below it a channel varies by less than one grey level, which is compression noise
_STORED_BYTES, _STORED_PIXELS = 1 << 28, 1 << 26  # of one picture in a journal
PNG_COMPRESSION = 6  # fixed, so that equal pixels give equal files under one zlib version

# The plugin classes are called directly: `Image.open` would try every registered format and apply Pillow's
# process-global pixel limit (a warning or an error, depending on who set what), where ours is an argument.
_PLUGINS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
}
_TEXT_CHUNKS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")  # of PNG
_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
_EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"} | _ALPHA_MODES
_ORIENTATION_TAG = 0x0112  # EXIF
_BITS_PER_SAMPLE_TAG = 258  # TIFF
# EXIF orientation -> (quarter turns counter-clockwise, then mirror left-right), as `numpy.rot90` counts them
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


class ImageError(CorpusError):
    """Bytes that cannot be used as a picture. `reason` is one line without the name of the file."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(f"the picture cannot be used: {self.reason}")


def sniff(data: bytes) -> str | None:
    """Return PNG, JPEG, WEBP, BMP, TIFF or GIF from the first bytes, or None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    return None


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Pixels:
    """Return the picture in `data` as uint8 RGB, height x width x 3, upright.

    EXIF orientation is applied. Palette, grey, CMYK and YCbCr become RGB. 16-bit grey is scaled to 8 bits by its
    stated depth (never clipped); 16-bit colour keeps its high bytes. Transparency is composited on white. Animated and
    multi-page files are refused, because which frame shows the concept would be a guess.

    Raises `ImageError` for anything that is not a whole, static PNG, JPEG, WEBP, BMP, TIFF or GIF of at most
    `max_bytes` bytes and `max_pixels` pixels; the pixel count is read from the header, before decoding.
    """
    if not data:
        raise ImageError("empty file")
    if len(data) > max_bytes:
        raise ImageError(f"too many bytes: {len(data)}, the limit is {max_bytes}")
    kind = sniff(data)
    if kind is None:
        raise ImageError("not an image: neither PNG, JPEG, WEBP, BMP, TIFF nor GIF")
    try:
        try:
            return _decoded(kind, data, max_pixels)
        except ValueError:
            # Pillow refuses PNG files for large texts and colour profiles, neither of which is used here.
            bare = _without_texts(data) if kind == "PNG" else data
            if len(bare) == len(data):
                raise
            return _decoded(kind, bare, max_pixels)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{kind} needs more memory than there is") from None
    except Image.DecompressionBombError:
        limit = Image.MAX_IMAGE_PIXELS  # Pillow applies it to TIFF tiles and GIF frames while it loads them
        raise ImageError(f"too many pixels: a tile or frame of this {kind} exceeds Pillow's limit of {limit}") from None
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on hostile bytes
        raise ImageError(f"truncated or corrupt {kind}: {error or type(error).__name__}") from None


def decode_stored(data: bytes) -> Pixels:
    """Return a picture of the journal, as `decode` does. Raises ValueError when it is damaged."""
    try:
        return decode(data, max_bytes=_STORED_BYTES, max_pixels=_STORED_PIXELS)
    except ImageError as error:  # about this tool's own picture: no error of the corpus
        raise ValueError(error.what) from None


def _decoded(kind: str, data: bytes, max_pixels: int) -> Pixels:
    with _open(kind, data) as image:
        _check_header(image, max_pixels)
        return _rgb(image, kind)


def _without_texts(data: bytes) -> bytes:
    """Return a PNG file without its colour profile and texts; unchanged when it has none, cut short where it is damaged."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])  # length, type, content, checksum
        if data[at + 4 : at + 8] not in _TEXT_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))


def _open(kind: str, data: bytes) -> ImageFile.ImageFile:
    module, name = _PLUGINS[kind]
    image: ImageFile.ImageFile = getattr(importlib.import_module(module), name)(io.BytesIO(data))
    return image


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width <= 0 or height <= 0:
        raise ImageError(f"zero size: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height} = {width * height}, the limit is {max_pixels}")
    if getattr(image, "is_animated", False):
        raise ImageError(f"animated or multi-page: {getattr(image, 'n_frames', 'several')} frames, one is needed")


def _rgb(image: ImageFile.ImageFile, kind: str) -> Pixels:
    bits = _grey_bits(image, kind)
    image.load()
    orientation = _orientation(image)  # after loading: Pillow turns TIFF itself then, and PNG may store EXIF last
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        pixels = _from_grey16(image, bits)
    elif image.mode in _EIGHT_BIT_MODES:
        pixels = _from_8bit(image)
    else:
        raise ImageError(f"{kind} with samples of mode {image.mode}, whose range is not defined")
    turns, mirrored = _TURNS.get(orientation, (0, False))
    pixels = np.rot90(pixels, turns)
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1..8; 1 when there is none or the EXIF block is corrupt (the pixels may still be good)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # corrupt EXIF raises many things, and warnings where they are errors
        return 1


def _grey_bits(image: ImageFile.ImageFile, kind: str) -> int:
    """Return the bits that a grey sample really uses: TIFF stores 12-bit samples in the same mode as 16-bit ones."""
    if kind != "TIFF":
        return 16
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _from_grey16(image: Image.Image, bits: int) -> Pixels:
    grey = np.asarray(image).astype(np.int64)
    peak = (1 << bits) - 1
    scaled = np.clip((grey * 255 + peak // 2) // peak, 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return np.repeat(scaled[:, :, None], 3, axis=2)


def _from_8bit(image: Image.Image) -> Pixels:
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
        colour, alpha = rgba[:, :, :3], rgba[:, :, 3:]
        # rounded integer compositing: platforms agree on integers
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _require_pixels(array: Pixels) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"expected uint8 pixels of shape (height, width, 3), got {array.dtype} {array.shape}")


def pixel_sha256(array: Pixels) -> str:
    """Return the hex SHA-256 of shape and RGB bytes: equal for the same picture in another file format or with other metadata."""
    _require_pixels(array)
    height, width, channels = array.shape
    digest = hashlib.sha256(f"{height}x{width}x{channels}:uint8:".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode_png(array: Pixels) -> bytes:
    """Return PNG bytes of RGB pixels without metadata; the same pixels always give the same bytes (for one zlib version)."""
    _require_pixels(array)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()


def to_model_input(array: Pixels, size: int) -> npt.NDArray[np.float32]:
    """Return the centre square resized (Lanczos) to size x size x 3, float32 in [-1, 1].

    A square of that size is not resampled. Raises ValueError for a size below 1.
    """
    _require_pixels(array)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    height, width, _ = array.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = array[top : top + side, left : left + side]
    if side != size:
        picture = Image.fromarray(np.ascontiguousarray(square))
        square = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
    return (square.astype(np.float32) / np.float32(127.5)) - np.float32(1.0)


def degenerate(array: npt.NDArray[np.generic]) -> str | None:
    """Return why a picture shows nothing ('empty', 'not finite', 'black', 'constant'), or None when it shows something.

    Integers are levels in 0..255; floats are model output in [-1, 1]. Black: no value above `BLACK_LEVEL`. Constant: no
    channel's standard deviation over the picture reaches `CONSTANT_STD` levels. Either is `unassessed`, never `clear`.
    """
    if array.size == 0:
        return "empty"
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            return "not finite"
        levels = (array.astype(np.float64) + 1.0) * 127.5
    else:
        levels = array.astype(np.float64)
    if levels.max() <= BLACK_LEVEL:
        return "black"
    spread = levels.std(axis=(0, 1)).max() if levels.ndim > 1 else levels.std()
    return "constant" if spread < CONSTANT_STD else None


def psnr(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], *, peak: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in decibels, 10 log10(peak^2 / mean squared error); infinity when they are equal.

    `peak` is the width of the value range: 255 for uint8, 2 for floats in [-1, 1]. NaN when either is not finite.
    Raises ValueError when the shapes differ or there is nothing to compare.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"cannot compare pictures of shape {first.shape} and {second.shape}")
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    if not math.isfinite(error):
        return math.nan
    return math.inf if error == 0.0 else 10.0 * math.log10(peak * peak / error)
