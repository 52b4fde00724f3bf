"""Say of a filter's model what its loading says of a detector's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from audit.errors import CheckpointError, DetectorError


@contextlib.contextmanager
def named(filter: str) -> Iterator[None]:
    """Turn a `DetectorError` of the block into a `CheckpointError` about the filter."""
    try:
        yield
    except DetectorError as error:
        what = error.what.replace("the detector's", "its")
        next_step = (error.next_step or "restore its files").replace("detector", "filter")
        raise CheckpointError(f"guard {filter}: {what}", where=error.where, next_step=next_step) from error
