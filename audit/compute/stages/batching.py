"""Run cases in batches. One bad case, or too little memory for a batch, never costs the other cases of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypedDict, TypeVar

import pyarrow as pa
import torch

from audit.diffusion.devices import require_device
from audit.errors import CheckpointError, DetectorError, DeviceLost, JournalError
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
    cases: Sequence[T],
    size: int,
    work: Callable[[Sequence[T]], Sequence[Row | Future[Row]]],
    fail: Callable[[T, str], Row],
) -> list[Row]:
    """Return one row per case, in order.

    `work` handles a batch; a row that it returns may still be finished by a thread. A batch that raises is halved until
    single cases are left, and a case that still raises becomes `fail(case, message)` with status 'error', which is
    counted as unassessed. Errors of the model, the detector, the device, the journal or the storage as a whole are raised.
    """
    rows: list[Row | Future[Row]] = []
    left = list(chunks(cases, size))[::-1]
    while left:
        batch = left.pop()
        try:
            results = work(batch)
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} cases")
            rows += results
            continue
        except (CheckpointError, DetectorError, DeviceLost, JournalError, SourceUnavailable):
            raise  # not about a picture: halving would only say it once per case, and hide from a retry what may pass
        except Exception as error:  # the batch boundary: what fails for one picture must not take the others with it
            require_device(error)
            log.warning("a batch of %d failed: %s: %s", len(batch), type(error).__name__, error)
            message = _message(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        if middle:
            left += [batch[middle:], batch[:middle]]
        else:
            rows.append(fail(batch[0], message))
    return [_finished(row, case, fail) for row, case in zip(rows, cases, strict=True)]


def _finished(row: Row | Future[Row], case: T, fail: Callable[[T, str], Row]) -> Row:
    if not isinstance(row, Future):
        return row
    try:
        return row.result()
    except Exception as error:  # of one picture, as above
        return fail(case, _message(error))


def _message(error: Exception) -> str:
    first = (str(error) or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"[:500]
