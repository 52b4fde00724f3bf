"""What one unit gives to the next: complete units are kept in memory, failed and damaged ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors.torch
import torch

from audit.compute.stages.inputs import unit_result
from audit.errors import JournalError
from audit.storage.journal import SCHEMAS, Journal

KEY = "a" * 64


def inverted(journal: Journal, blob: bytes | None, **statuses: str) -> None:
    empty = dict.fromkeys(SCHEMAS["invert"].names)
    rows: list[dict[str, Any]] = [{**empty, "item": item, "status": status} for item, status in statuses.items()]
    journal.write("invert", KEY, pa.Table.from_pylist(rows, SCHEMAS["invert"]), {"identity": {}}, blob)


def tensors(*items: str) -> bytes:
    return safetensors.torch.save({item: torch.full((4, 2, 2), float(len(items))) for item in items})


def test_latents_that_were_inverted_meanwhile_are_found(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    inverted(journal, tensors("one"), one="ok", two="error")
    given = unit_result(journal, "invert", KEY)
    assert (given.rows["two"]["status"], set(given.tensors)) == ("error", {"one"})
    inverted(journal, tensors("one", "two"), one="ok", two="unreadable")
    given = unit_result(journal, "invert", KEY)
    assert (given.rows["two"]["status"], set(given.tensors)) == ("unreadable", {"one", "two"})
    assert torch.equal(given.tensors["one"], torch.full((4, 2, 2), 2.0))


def test_a_complete_unit_is_read_once_and_an_absent_one_is_asked_for_again(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    with pytest.raises(JournalError, match="lacks a file"):
        unit_result(journal, "invert", KEY)
    inverted(journal, tensors("one"), one="ok")
    assert unit_result(journal, "invert", KEY) is unit_result(journal, "invert", KEY)


def test_an_inversion_without_its_tensors_is_damaged(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    inverted(journal, None, one="ok")
    with pytest.raises(JournalError, match="lacks its tensors"):
        unit_result(journal, "invert", KEY)
