"""What earlier units give to the one at hand: their rows and their tensors."""

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
class Given:
    """Status, error and, of attacks, prompt by item; and the unit's tensors by name, none where it made none."""

    rows: Mapping[str, Row]
    tensors: Mapping[str, torch.Tensor]


class _Failed(Exception):
    """Carries what a failed unit gives past a cache that keeps returned values only."""

    def __init__(self, given: Given) -> None:
        self.given = given


def given_by(journal: Journal, kind: str, key: str) -> Given:
    """What the attack or invert unit `key` made; complete ones are kept for the next cases that ask.

    A failed one is read each time: another worker may have completed it since. Raises `JournalError` when it is absent.
    """
    try:
        return _complete(journal, kind, key)
    except _Failed as failed:
        return failed.given


@functools.lru_cache(maxsize=16)
def _complete(journal: Journal, kind: str, key: str) -> Given:
    columns = ["item", "status", "error", *(["prompt"] if kind == "attack" else [])]
    table = journal.read(kind, key, columns)
    header = header_of(table)
    # An attack that finds text has no tensors; an inversion without them is damaged, which `blob_of` says.
    made = kind == "invert" or header.get("blob_sha256")
    tensors = safetensors.torch.load(journal.blob_of(kind, key, header)) if made else {}
    given = Given({row["item"]: row for row in table.to_pylist()}, tensors)
    if any(row["status"] == Status.ERROR for row in given.rows.values()):
        raise _Failed(given)
    return given
