"""The batch boundary: one bad case, or too little memory for a batch, never takes its neighbours along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from audit.errors import CheckpointError, DetectorError, JournalError
from audit.plan.document import chunks
from audit.storage.errors import SourceUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
Row = dict[str, Any]


def run_batches(
    cases: Sequence[T], size: int, work: Callable[[Sequence[T]], list[Row]], fail: Callable[[T, str], Row]
) -> list[Row]:
    """One row per case, in order. `work` handles a batch; a batch that raises is halved until single cases are left,
    and a case that still raises becomes `fail(case, message)` with status 'error', which is counted as unassessed.
    Errors of the model, the detector, the journal or the storage as a whole are raised.
    """
    rows: list[Row] = []
    for batch in chunks(cases, size):
        rows += _run(batch, work, fail)
    return rows


def _run(batch: Sequence[T], work: Callable[[Sequence[T]], list[Row]], fail: Callable[[T, str], Row]) -> list[Row]:
    try:
        rows = work(batch)
        if len(rows) != len(batch):
            raise RuntimeError(f"{len(rows)} results for {len(batch)} cases")
        return rows
    except (CheckpointError, DetectorError, JournalError, SourceUnavailable):
        raise  # not about a picture: halving would only say it once per case, and hide from a retry what may pass
    except Exception as error:  # the batch boundary: what fails for one picture must not take the others with it
        log.warning("a batch of %d failed: %s: %s", len(batch), type(error).__name__, error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            first = (str(error) or "no message").splitlines()[0]
            return [fail(batch[0], f"{type(error).__name__}: {first}"[:500])]
    middle = len(batch) // 2
    return _run(batch[:middle], work, fail) + _run(batch[middle:], work, fail)
