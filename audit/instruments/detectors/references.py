"""Reference pictures of a judge: what a style or a face looks like, by folders of pictures.

They are listed, decoded and compared when the spec is planned, so that a judge without references, or with too few
different ones, is refused before anything is computed. Their digests are part of the instrument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from audit.corpus.images import ImageError, decode, pixel_sha256
from audit.corpus.sources import Source, is_litter, open_source
from audit.errors import CorpusError, DetectorError
from audit.instruments.detectors.base import Pixels
from audit.instruments.detectors.phrases import mistake
from audit.spec.sections import CorpusLimits, DetectorSpec
from audit.weights.sharing import copy_of

FEWEST = 3  # different pictures: fewer say more about themselves than about what they have in common
MOST = 2_000  # pictures of one label, each of which costs a pass of the network once per process


@dataclasses.dataclass(frozen=True)
class References:
    """The different reference pictures of one label, in the order of their digests."""

    label: str
    address: str
    files: tuple[tuple[str, str], ...]  # (hex SHA-256 of the pixels, URI)

    @property
    def digests(self) -> tuple[str, ...]:
        """The hex SHA-256 of the pixels of each picture."""
        return tuple(digest for digest, _ in self.files)

    def pictures(self) -> Iterator[Pixels]:
        """Yield the pictures. Raises `DetectorError` for one that has changed since it was listed."""
        source = open_source(self.address)
        for digest, uri in self.files:
            try:
                picture = _picture(source, uri)
            except CorpusError as error:
                raise DetectorError(f"a reference of {self.label!r}: {error.what}", where=uri) from None
            if pixel_sha256(picture) != digest:
                raise DetectorError(
                    f"a reference of {self.label!r} has changed since the run was planned",
                    where=uri,
                    next_step="put the old picture back, or plan a new run",
                )
            yield picture


def read_references(spec: DetectorSpec, example: str) -> tuple[References, ...]:
    """Return the references of `parameters.references` (label -> folder or address of pictures), by label.

    Equal pictures count once. Raises `DetectorError` when there are none, when a folder cannot be read or holds something
    that is no picture, when fewer than `FEWEST` different pictures are left, and when two labels have the same ones.
    `example` is a setting that would do.
    """
    given = spec.parameters.get("references")
    if not isinstance(given, Mapping) or not given:
        raise mistake(spec, "parameters.references", "has no reference pictures to compare with", example)
    owners: dict[tuple[str, ...], str] = {}
    sets = []
    for label, address in sorted(given.items()):
        where = f"parameters.references.{label}"
        if not isinstance(address, str) or not address.strip():
            raise mistake(spec, where, "references must map labels to folders of pictures", example)
        try:
            here = str(copy_of(address) or address)
            references = References(label, here, _files(here))
        except CorpusError as error:
            what = f"the references of {label!r} cannot be read: {error.what}"
            raise mistake(spec, where, what, error.next_step or example) from None
        _require_enough(spec, where, references)
        other = owners.setdefault(references.digests, label)
        if other != label:
            raise mistake(
                spec,
                "parameters.references",
                f"{other} and {label} have the same references, so no picture can tell them apart",
                "give each label its own pictures",
            )
        sets.append(references)
    return tuple(sets)


def _require_enough(spec: DetectorSpec, where: str, references: References) -> None:
    count = len(references.files)
    if count >= FEWEST:
        return
    what = {0: f"{references.address} holds no pictures", 1: f"all references of {references.label!r} are equal"}.get(
        count, f"{count} different references of {references.label!r} are too few"
    )
    raise mistake(spec, where, what, f"put at least {FEWEST} different pictures into that folder")


def _files(address: str) -> tuple[tuple[str, str], ...]:
    """Return (digest, URI) of every different picture below an address, in order of the digests."""
    source = open_source(address)
    listed = [one for one in source.objects() if not is_litter(one.uri, source.uri)]
    if len(listed) > MOST:
        raise CorpusError(f"there are {len(listed)} objects, and at most {MOST} are read", where=source.uri)
    files: dict[str, str] = {}
    for one in listed:
        if one.problem is not None:
            raise CorpusError(f"{one.uri}: {one.problem}", next_step="remove it from the folder")
        files.setdefault(pixel_sha256(_picture(source, one.uri)), one.uri)
    return tuple(sorted(files.items()))


def _picture(source: Source, uri: str) -> Pixels:
    limits = CorpusLimits()
    try:
        return decode(source.read(uri), max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    except OSError as error:
        raise CorpusError(f"{uri}: {error.strerror or error}", next_step="make it readable, or remove it") from None
    except ImageError as error:
        raise CorpusError(
            f"{uri} is no picture: {error.reason}", next_step="keep nothing but pictures in that folder"
        ) from None
