"""Run one attack unit: what its method searched for, one row per item."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import safetensors.torch

from audit.attacks import registry
from audit.attacks.protocol import Found, ReadItem, Row, Search
from audit.checkpoints.personal import Change
from audit.compute.models import Models
from audit.compute.personalised import personalised
from audit.progress import Session
from audit.records import Status, Unit
from audit.spec.content import pairing
from audit.storage.journal import SCHEMAS


def run_attack(
    unit: Unit,
    models: Models,
    read_item: ReadItem,
    batch_size: int,
    session: Session | None = None,
    companions: Sequence[tuple[Unit, Session]] = (),
) -> tuple[pa.Table, bytes | None]:
    """One row per item of the unit, in plan order, and the tensors found as safetensors bytes, named by their items.

    Every row's report says which method searched, in which model and for what. Raises ValueError when a method leaves
    an item out or finds one that nobody asked for: the plan's rows are the denominator. `companions` are units that the
    method may bring forward in the same loop; they are run later, as any other.
    """
    described = unit.identity

    def change_of(described: Mapping[str, Any]) -> Change:
        return personalised(models, described).change

    others = [Search(later, models, read_item, batch_size, kept) for later, kept in companions]
    search = Search(unit, models, read_item, batch_size, session or Session(), others, change_of)
    found = registry.runner(described["method"])(search)
    if not isinstance(found, Found):
        raise ValueError(f"attack {described['method']} returned a value of type {type(found).__name__}, not Found")
    if sorted(row.item for row in found.rows) != sorted(described["items"]) or not set(found.tensors) <= set(
        described["items"]
    ):
        raise ValueError(f"attack {described['method']} did not answer for exactly its items")
    who = {name: described[name] for name in ("method", "version", "model")} | {"concept": described["concept"]["name"]}
    pairs_minors = pairing(described["concept"])
    by_item = {row.item: _shown(row, pairs_minors) for row in found.rows}
    rows = [
        {**vars(row), "status": row.status.value, "report": json.dumps({**who, **row.report}, sort_keys=True)}
        for row in (by_item[item] for item in described["items"])
    ]
    tensors = {item: tensor.detach().cpu().contiguous() for item, tensor in found.tensors.items()}
    blob = safetensors.torch.save(tensors) if tensors else None
    return pa.Table.from_pylist(rows, schema=SCHEMAS["attack"]), blob


def _shown(row: Row, refused: Callable[[str], bool]) -> Row:
    """The row, without a prompt that no audit may use, whoever's method found it."""
    if row.prompt is None or not refused(row.prompt):
        return row
    return Row(row.item, Status.DEGENERATE, "the prompt found pairs minors with sexual content", report=row.report)
