"""Produce one erased model's weights and the facts about them."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import safetensors.torch

from audit.checkpoints.inspection import inspect
from audit.compute.models import Models
from audit.compute.stages.batching import Made
from audit.erasers.produce import produce
from audit.erasers.saving import facts
from audit.plan.identities import CheckpointIdentity, EraseIdentity, from_json
from audit.progress import Session
from audit.records import Status
from audit.storage.journal import SCHEMAS


def run_erase(
    key: str, described: EraseIdentity | CheckpointIdentity, models: Models, session: Session | None = None
) -> Made:
    """Return the unit's one row, with the measured footprint, and the changed tensors as safetensors bytes.

    A checkpoint's tensors stay in its files: its row carries the claim and the facts, and every process that loads it
    checks its digest. `session` keeps a training's checkpoints and shows its progress.

    Raises `EraserError` when the eraser changed nothing: an erased model equal to what it starts from is not audited.
    """
    if isinstance(described, CheckpointIdentity):
        ref = models.checkpoint(key, described.checkpoint)
        return _row(f"{described.claim}-checkpoint", inspect(ref, models.ref, described.claim)), None
    start = models.start(described.edited)
    erased = produce(start, described.method, [described.concept], described.parameters, session)
    change = erased.record.change
    measured = {
        "tensors": change.tensors,
        "parameters": change.parameters,
        "parameter_share": change.parameter_share,
        "relative_norm": change.relative_norm,
        "effect": dict(change.effect),
        "names": sorted(erased.artefact.tensors),
        "layout": erased.artefact.layout,
        "record": facts(erased.record),
    }
    if described.edited is not None:
        measured["again"] = _erasures(described, models)
    metadata = {**erased.artefact.metadata, "layout": erased.artefact.layout}
    blob = safetensors.torch.save(dict(erased.artefact.tensors), metadata)
    return _row(f"{described.method}-{described.concept.name}", measured), blob


def _erasures(described: EraseIdentity, models: Models) -> int:
    """Return how many erasures the model that an eraser starts from has behind it."""
    count, edited = 0, described.edited
    while edited is not None:
        before = from_json("erase", models.journal.header("erase", edited.model)["identity"])
        count, edited = count + 1, before.edited if isinstance(before, EraseIdentity) else None
    return count


def _row(artefact: str, facts: Mapping[str, object]) -> pa.Table:
    text = json.dumps(facts, sort_keys=True)
    row = {"artefact": artefact, "status": Status.OK.value, "error": None, "facts": text}
    return pa.Table.from_pylist([row], schema=SCHEMAS["erase"])
