"""Read the rows and tensors of earlier units that a unit depends on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import safetensors.torch
import torch

from audit.compute.stages.batching import Row
from audit.records import Status
from audit.storage.journal import Journal
from audit.storage.unit_files import header_of


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """The result of an earlier unit.

    `rows` holds status, error and, for attacks, prompt, by item. `tensors` holds the unit's tensors by name, if any.
    `identity` is the one that the unit was journalled with.
    """

    rows: Mapping[str, Row]
    tensors: Mapping[str, torch.Tensor]
    identity: Mapping[str, object]


class _Failed(Exception):
    """Carries a failed result past a cache that keeps returned values only."""

    def __init__(self, result: UnitResult) -> None:
        self.result = result


def unit_result(journal: Journal, kind: str, key: str) -> UnitResult:
    """Return the result of the attack or invert unit `key`. Complete results are kept for the next cases that ask.

    A failed one is read each time: another worker may have completed it since. Raises `JournalError` when it is absent.
    """
    try:
        return _complete(journal, kind, key)
    except _Failed as failed:
        return failed.result


@functools.lru_cache(maxsize=16)
def _complete(journal: Journal, kind: str, key: str) -> UnitResult:
    columns = ["item", "status", "error", *(["prompt"] if kind == "attack" else [])]
    table = journal.read(kind, key, columns)
    header = header_of(table)
    # An attack that finds text has no tensors; an inversion without them is damaged, which `blob_of` says.
    has_tensors = kind == "invert" or header.get("blob_sha256")
    tensors = safetensors.torch.load(journal.blob_of(kind, key, header)) if has_tensors else {}
    result = UnitResult({row["item"]: row for row in table.to_pylist()}, tensors, header.get("identity") or {})
    if any(row["status"] == Status.ERROR for row in result.rows.values()):
        raise _Failed(result)
    return result
