"""Decoding against real files written by Pillow: every accepted kind, every refusal, hashes, model input, PSNR."""

from __future__ import annotations

import io
import math
import struct
import threading
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from audit.corpus import images
from audit.corpus.images import ImageError, decode, degenerate, encode_png, pixel_sha256, psnr, to_model_input
from audit.errors import CorpusError

LIMITS = {"max_bytes": 1_000_000, "max_pixels": 1_000_000}


def picture(height: int = 20, width: int = 30, seed: int = 0) -> images.Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 64, width: int = 64) -> images.Pixels:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 127 // (height + width)], axis=2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **(LIMITS | limits))
    assert isinstance(caught.value, CorpusError)
    assert caught.value.reason in str(caught.value)
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_files_decode_to_the_exact_pixels(kind: str) -> None:
    pixels = picture()
    decoded = decode(saved(Image.fromarray(pixels), kind), **LIMITS)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})])
def test_lossy_files_decode_close_to_the_pixels(kind: str, options: dict[str, Any]) -> None:
    pixels = smooth()
    assert psnr(decode(saved(Image.fromarray(pixels), kind, **options), **LIMITS), pixels) > 24


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    pixels = picture()
    data = saved(Image.fromarray(pixels), "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(data, **LIMITS), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_palette_grey_and_opaque_alpha_become_the_same_rgb(mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    np.testing.assert_array_equal(decode(saved(image, "PNG"), **LIMITS), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    pixels = smooth()
    options = {"quality": 95} if kind == "JPEG" else {}
    decoded = decode(saved(Image.fromarray(pixels).convert("CMYK"), kind, **options), **LIMITS)
    assert psnr(decoded, pixels) > 28


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 600).reshape(20, 30).round().astype(np.uint16)
    decoded = decode(saved(Image.fromarray(ramp), kind), **LIMITS)
    expected = np.rint(ramp / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(decoded, np.repeat(expected[:, :, None], 3, axis=2))
    assert len(np.unique(decoded)) == 256


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_colour_keeps_its_high_bytes() -> None:
    row = b"".join(struct.pack(">HHH", value, 65535 - value, 0x8000) for value in (0, 0x4000, 0xFFFF))
    decoded = decode(png(3, 1, 16, 2, b"\x00" + row), **LIMITS)
    np.testing.assert_array_equal(decoded, [[[0, 255, 128], [64, 191, 128], [255, 0, 128]]])


def test_12_bit_tiff_uses_its_own_depth() -> None:
    # two samples of 12 bits in three bytes: 0xFFF and 0x800
    entries = [
        (256, 4, 2), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 0),
        (277, 3, 1), (278, 4, 1), (279, 4, 3),
    ]  # fmt: skip
    offset = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", offset if tag == 273 else value)
        for tag, kind, value in entries
    )
    data = b"II*\x00" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + bytes([0xFF, 0xF8, 0x00])
    np.testing.assert_array_equal(decode(data, **LIMITS)[0, :, 0], [255, 128])


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 128, 255]
    decoded = decode(saved(Image.fromarray(rgba), "PNG"), **LIMITS)
    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [227, 127, 127], [200, 0, 0]]])


def test_transparent_palette_entry_and_colour_key_become_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        decoded = decode(saved(palette, kind, transparency=0), **LIMITS)
        np.testing.assert_array_equal(decoded, [[[255, 255, 255], [10, 20, 30]]])
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    np.testing.assert_array_equal(
        decode(saved(keyed, "PNG", transparency=(1, 2, 3)), **LIMITS), [[[255, 255, 255], [4, 5, 6]]]
    )
    grey = Image.fromarray(np.array([[0, 65535, 257]], dtype=np.uint16))
    assert decode(saved(grey, "PNG", transparency=0), **LIMITS)[0, :, 0].tolist() == [255, 255, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(picture()), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = decode(data, **LIMITS)
    assert decoded.shape == ((30, 20, 3) if orientation >= 5 else (20, 30, 3))
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.flags["C_CONTIGUOUS"]


def test_corrupt_exif_does_not_cost_the_picture() -> None:
    data = saved(Image.fromarray(picture()), "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, **LIMITS), picture())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    data = saved(Image.fromarray(picture(60, 60)), kind)
    assert refusal(data[: int(len(data) * kept)]).startswith(f"truncated or corrupt {kind}")


def test_corrupt_pixel_data_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(picture(60, 60)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refusal(bytes(data)).startswith("truncated or corrupt PNG")


@pytest.mark.parametrize(
    "data",
    [b"hello, world\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x00" * 100, b"PK\x03\x04zip"],
)
def test_non_images_are_refused(data: bytes) -> None:
    assert refusal(data).startswith("not an image")


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX"])
def test_other_formats_are_refused_although_pillow_reads_them(kind: str) -> None:
    assert refusal(saved(Image.fromarray(picture(32, 32)), kind)).startswith("not an image")


def test_empty_bytes_too_many_bytes_and_zero_size() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    assert refusal(b"") == "empty file"
    assert refusal(data, max_bytes=len(data) - 1) == f"too many bytes: {len(data)}, the limit is {len(data) - 1}"
    decode(data, max_bytes=len(data), max_pixels=600)
    assert "corrupt" in refusal(png(0, 5, 8, 2, b"")) or "zero size" in refusal(png(0, 5, 8, 2, b""))


def test_too_many_pixels_is_read_from_the_header_alone() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    assert refusal(data, max_pixels=599) == "too many pixels: 30 x 20 = 600, the limit is 599"
    bomb = png(60_000, 60_000, 8, 2, b"")  # 3.6 Gpixel in 70 bytes, no pixel data at all
    assert refusal(bomb, max_pixels=10**9).startswith("too many pixels: 60000 x 60000")


def test_pillows_own_pixel_limit_neither_applies_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pixels = picture()
    for kind in ("PNG", "BMP"):
        np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels), kind), **LIMITS), pixels)
    assert "exceeds Pillow's limit of 10" in refusal(saved(Image.fromarray(pixels), "TIFF"))
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_and_multi_page_files_are_refused(kind: str) -> None:
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refusal(data) == "animated or multi-page: 3 frames, one is needed"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_without_a_range_are_refused(mode: str) -> None:
    assert "range is not defined" in refusal(saved(Image.new(mode, (4, 4), 7), "TIFF"))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP"]),
    position=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_a_flipped_byte_gives_pixels_or_an_image_error(kind: str, position: float, value: int) -> None:
    data = bytearray(saved(Image.fromarray(smooth(16, 16)), kind))
    data[int(position * len(data))] = value
    try:
        decoded = decode(bytes(data), **LIMITS)
    except ImageError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3


def test_decoding_in_threads_gives_the_same_pixels() -> None:
    data = [saved(Image.fromarray(picture(seed=seed)), "PNG") for seed in range(8)]
    results: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: pixel_sha256(decode(data[i], **LIMITS))}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {seed: pixel_sha256(picture(seed=seed)) for seed in range(8)}


def test_pixel_hash_covers_shape_and_content_but_not_the_file() -> None:
    pixels = picture()
    assert pixel_sha256(decode(saved(Image.fromarray(pixels), "BMP"), **LIMITS)) == pixel_sha256(pixels)
    assert pixel_sha256(pixels.reshape(30, 20, 3)) != pixel_sha256(pixels)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert pixel_sha256(changed) != pixel_sha256(pixels)
    assert pixel_sha256(pixels[:, ::-1]) == pixel_sha256(np.ascontiguousarray(pixels[:, ::-1]))
    for wrong in (pixels.astype(np.float32), pixels[:, :, 0], pixels[:0]):
        with pytest.raises(ValueError, match="expected uint8 pixels"):
            pixel_sha256(wrong)


def test_png_is_deterministic_and_lossless() -> None:
    pixels = picture()
    data = encode_png(pixels)
    assert data == encode_png(pixels.copy(order="F"))
    np.testing.assert_array_equal(decode(data, **LIMITS), pixels)


def test_model_input_is_the_exact_picture_when_it_fits() -> None:
    pixels = picture(32, 32)
    array = to_model_input(pixels, 32)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.rint((array + 1) * 127.5).astype(np.uint8), pixels)
    assert to_model_input(np.array([[[0, 255, 255]]], dtype=np.uint8), 1).tolist() == [[[-1.0, 1.0, 1.0]]]


def test_model_input_crops_the_centre_square_then_resizes() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    np.testing.assert_array_equal(to_model_input(wide, 10), np.ones((10, 10, 3), dtype=np.float32))
    tall = wide.transpose(1, 0, 2)
    assert to_model_input(tall, 5).min() == 1.0
    scaled = to_model_input(smooth(128, 128), 32)
    assert scaled.shape == (32, 32, 3)
    assert np.abs(scaled).max() <= 1.0
    assert psnr(scaled, to_model_input(smooth(32, 32), 32), peak=2.0) > 30
    with pytest.raises(ValueError, match="size"):
        to_model_input(wide, 0)


def test_degenerate_pictures_are_named() -> None:
    assert degenerate(picture()) is None
    assert degenerate(to_model_input(picture(16, 16), 16)) is None
    assert degenerate(np.zeros((8, 8, 3), dtype=np.uint8)) == "black"
    assert degenerate(picture() % 9) == "black"
    assert degenerate(np.full((8, 8, 3), -1.0)) == "black"
    assert degenerate(np.full((8, 8, 3), [200, 30, 90], dtype=np.uint8)) == "constant"
    assert degenerate(200 + picture() % 3) == "constant"
    assert degenerate(200 + picture() % 8) is None
    assert degenerate(np.full((8, 8, 3), np.nan, dtype=np.float32)) == "not finite"
    broken = to_model_input(picture(16, 16), 16)
    broken[0, 0, 0] = np.inf
    assert degenerate(broken) == "not finite"
    assert degenerate(np.zeros((0, 8, 3))) == "empty"


def test_one_small_object_on_a_plain_ground_is_not_constant() -> None:
    scene = np.full((64, 64, 3), 200, dtype=np.uint8)
    scene[30:34, 30:34] = 0
    assert degenerate(scene) is None


def test_psnr_matches_its_formula() -> None:
    pixels = picture()
    assert psnr(pixels, pixels) == math.inf
    assert psnr(pixels // 2, pixels // 2 + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(np.zeros((2, 2)), np.full((2, 2), 0.2), peak=2.0) == pytest.approx(20.0)
    assert math.isnan(psnr(np.zeros((2, 2)), np.full((2, 2), np.nan)))
    with pytest.raises(ValueError, match="cannot compare"):
        psnr(pixels, pixels[:5])


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with further chunks before its pixels."""
    whole = saved(Image.fromarray(picture()), "PNG")
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return whole[:33] + added + whole[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_a_png_with_a_large_profile_or_text_is_read(chunk: tuple[bytes, bytes]) -> None:
    np.testing.assert_array_equal(decode(png_with(chunk), **LIMITS), picture())


def test_a_png_with_large_texts_after_its_pixels_is_read() -> None:
    data = png_with()
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)
    late = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    np.testing.assert_array_equal(decode(data[:-12] + late + data[-12:], **LIMITS), picture())


def test_a_truncated_png_with_a_large_profile_stays_refused() -> None:
    data = png_with((b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))))
    assert "truncated or corrupt PNG" in refusal(data[:-500])


def test_a_picture_of_the_journal_is_decoded_by_the_same_route() -> None:
    array = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    stored = images.encode_png(array)
    assert (images.decode_stored(stored) == array).all()
    with pytest.raises(ValueError, match="the picture cannot be used: truncated or corrupt PNG"):
        images.decode_stored(stored[:-30])
