"""Read the region masks of corpus pictures: which part of each picture shows the concept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePosixPath

from audit import locations
from audit.corpus import images
from audit.corpus.images import ImageError, Pixels
from audit.corpus.sources import ListedObject, Source, is_litter, open_source
from audit.errors import CorpusError
from audit.spec.sections import CorpusEntry, CorpusLimits

_WHITE = 128  # of 255: a mask that was saved as JPEG has no clean levels


@dataclasses.dataclass(frozen=True)
class Pictured:
    """A picture that needs a mask: its address and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Region:
    """The mask of one picture: its address, and the hash of its decoded pixels."""

    uri: str
    sha256: str


def white(mask: Pixels) -> images.Mask:
    """Return a boolean array (H, W): where a decoded mask (H, W, 3) shows the concept."""
    region: images.Mask = mask.mean(axis=-1) >= _WHITE
    return region


def read_regions(entry: CorpusEntry, pictures: Sequence[Pictured], limits: CorpusLimits) -> list[Region]:
    """Return the mask of each picture of a corpus entry, matched by its path below the entry's folder, the ending aside.

    Raises `CorpusError` for a picture without a mask or with two, and for a mask that cannot be decoded, has another size
    than its picture, or is all black or all white: a region that holds nothing, or everything, tells nothing apart.
    """
    assert entry.regions is not None
    source = open_source(entry.regions)
    masks: dict[str, list[ListedObject]] = {}
    for found in source.objects():
        if not is_litter(found.uri, source.uri):
            masks.setdefault(_name(found.uri, source.uri), []).append(found)
    below = locations.absolute(entry.url)
    lists = [masks.get(_name(picture.uri, below), []) for picture in pictures]
    for wrong, what in ((0, "no region mask"), (2, "more than one region mask")):
        without = [picture.uri for picture, found in zip(pictures, lists, strict=True) if min(len(found), 2) == wrong]
        if without:
            raise CorpusError(
                f"{len(without)} of {len(pictures)} pictures of {entry.concept!r} have {what}, first {without[0]}",
                where=entry.regions,
                next_step="put one mask with the picture's file name there for each picture",
            )
    return [
        Region(mask.uri, _digest(source, mask, picture, limits))
        for picture, (mask,) in zip(pictures, lists, strict=True)
    ]


def _name(uri: str, below: str) -> str:
    return str(PurePosixPath(uri.removeprefix(below).strip("/")).with_suffix(""))


def _digest(source: Source, listed: ListedObject, picture: Pictured, limits: CorpusLimits) -> str:
    if listed.problem is not None or listed.size > limits.max_bytes:
        raise _unusable(listed.problem or f"too many bytes: {listed.size}, the limit is {limits.max_bytes}", listed.uri)
    try:
        mask = images.decode(source.read(listed.uri), max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    except ImageError as error:
        raise _unusable(error.reason, listed.uri) from None
    except OSError as error:
        raise _unusable(error.strerror or type(error).__name__, listed.uri) from None
    height, width, _ = mask.shape
    if (width, height) != (picture.width, picture.height):
        sizes = f"it has {width} x {height} pixels and its picture {picture.width} x {picture.height}"
        raise _unusable(sizes, listed.uri)
    region = white(mask)
    if region.all() or not region.any():
        raise _unusable(f"it is all {'white' if region.any() else 'black'}", listed.uri)
    return images.pixel_sha256(mask)


def _unusable(reason: str, uri: str) -> CorpusError:
    return CorpusError(
        f"a region mask cannot be used: {reason}",
        where=uri,
        next_step="replace it by a picture of the same size, white where the concept is and black elsewhere",
    )
