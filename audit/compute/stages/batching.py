"""Run cases in batches. One bad case, or too little memory for a batch, never costs the other cases of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

import pyarrow as pa
import torch

from audit.errors import CheckpointError, DetectorError, JournalError
from audit.plan.document import chunks
from audit.storage.errors import SourceUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = dict[str, object]
Made = tuple[pa.Table, bytes | None]  # the rows of a unit, and its tensors as safetensors bytes


class StoredImage(TypedDict):
    """A picture as the journal stores it."""

    bytes: bytes  # PNG
    path: str


class Picture(TypedDict):
    """A row of a generate unit, as the units that measure pictures read it."""

    image_id: int
    status: str
    error: str | None
    image: StoredImage  # where the status is ok


def run_batches(
    cases: Sequence[T], size: int, work: Callable[[Sequence[T]], list[Row]], fail: Callable[[T, str], Row]
) -> list[Row]:
    """Return one row per case, in order.

    `work` handles a batch. A batch that raises is halved until single cases are left, and a case that still raises
    becomes `fail(case, message)` with status 'error', which is counted as unassessed. Errors of the model, the
    detector, the journal or the storage as a whole are raised.
    """
    rows: list[Row] = []
    left = list(chunks(cases, size))[::-1]
    while left:
        batch = left.pop()
        try:
            results = work(batch)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} cases")
            rows += results
            continue
        except (CheckpointError, DetectorError, JournalError, SourceUnavailable):
            raise  # not about a picture: halving would only say it once per case, and hide from a retry what may pass
        except Exception as error:  # the batch boundary: what fails for one picture must not take the others with it
            log.warning("a batch of %d failed: %s: %s", len(batch), type(error).__name__, error)
            first = (str(error) or "no message").splitlines()[0]
            message = f"{type(error).__name__}: {first}"[:500]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        if middle:
            left += [batch[middle:], batch[:middle]]
        else:
            rows.append(fail(batch[0], message))
    return rows
