"""Pictures of cases as data URIs: encoded anew from pixels, blurred where sensitive, stand-ins where there is no journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.dashboard.context import Context
from audit.report.embedding import Embedder
from audit.report.strips import Frame, Strip, strips
from audit.report.view import Index
from audit.storage.pictures import Address

NO_JOURNAL = "no journal named"
EDGE = 192  # pixels of a picture that is one of few


def case_strips(context: Context, index: Index) -> dict[str, Strip]:
    """Return the strip of each pictured case of a run by concept."""
    by_concept = strips(index, context.pictures or _nothing)
    if context.pictures is not None:
        return by_concept
    return {
        concept: dataclasses.replace(strip, frames=tuple(_without_journal(frame) for frame in strip.frames))
        for concept, strip in by_concept.items()
    }


def data_uris(
    context: Context, addresses: Sequence[Address], hide: Sequence[bool]
) -> list[tuple[str | None, str | None]]:
    """Return for each picture a data URI, or None and the word for its placeholder; blurred where `hide` says so."""
    if context.pictures is None:
        return [(None, NO_JOURNAL)] * len(addresses)
    embed = Embedder.sharing(context.pictures, len(addresses), len(addresses) * EDGE * EDGE // 4, (EDGE,))
    return [embed(address, hide=blur) for address, blur in zip(addresses, hide, strict=True)]


def _nothing(address: Address) -> None:
    return None


def _without_journal(frame: Frame) -> Frame:
    if frame.placeholder != "missing":
        return frame
    alt = frame.alt.replace("picture missing", NO_JOURNAL)
    return dataclasses.replace(frame, placeholder=NO_JOURNAL, alt=alt)
