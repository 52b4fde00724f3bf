"""Produce one erased model's weights and the facts about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import safetensors.torch

from audit.checkpoints import apply_artefact
from audit.claims import inspect
from audit.erasers import uce
from audit.journal import SCHEMAS
from audit.models import Models
from audit.records import Status, Unit
from audit.spec import Concept

_ERASERS = {uce.NAME: uce.erase}


def run_erase(unit: Unit, models: Models) -> tuple[pa.Table, bytes | None]:
    """The unit's one row, with the measured footprint, and the changed tensors as safetensors bytes.

    A checkpoint's tensors stay where they are: its row carries the claim and the facts, and whoever loads it proves by
    its digest that it is the same.

    Raises `CheckpointError` when the eraser changed nothing: an erased model equal to the backbone is not audited.
    """
    described: Mapping[str, Any] = unit.identity
    if "checkpoint" in described:
        ref = models.checkpoint(unit.key, described["checkpoint"])
        return _row(f"{described['claim']}-checkpoint", inspect(ref, models.ref, described["claim"])), None
    concept = Concept.model_validate(described["concept"])
    weights = _ERASERS[described["method"]](models.pipeline, [concept], described["parameters"])
    where = f"eraser {described['method']} on {concept.name!r}"
    footprint = apply_artefact(models.pipeline, weights, where=where).footprint
    facts = {
        "tensors": footprint.tensors,
        "parameters": footprint.parameters,
        "parameter_share": footprint.parameter_share,
        "relative_norm": footprint.relative_norm,
        "names": sorted(weights),
    }
    blob = safetensors.torch.save(weights, {"method": described["method"], "concept": concept.name})
    return _row(f"{described['method']}-{concept.name}", facts), blob


def _row(artefact: str, facts: Mapping[str, Any]) -> pa.Table:
    text = json.dumps(facts, sort_keys=True)
    row = {"artefact": artefact, "status": Status.OK.value, "error": None, "facts": text}
    return pa.Table.from_pylist([row], schema=SCHEMAS["erase"])
