"""Produce one erased model's weights and the facts about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import safetensors.torch

from audit.erasers.produce import produce
from audit.erasers.saving import facts
from audit.journal import SCHEMAS
from audit.models import Models
from audit.records import Status, Unit
from audit.spec import Concept


def run_erase(unit: Unit, models: Models) -> tuple[pa.Table, bytes]:
    """The unit's one row, with the measured footprint, and the artefact as safetensors bytes.

    Raises `EraserError` when the eraser changed nothing: an erased model equal to the backbone is not audited.
    """
    described: Mapping[str, Any] = unit.identity
    concept = Concept.model_validate(described["concept"])
    erased = produce(models.pipeline, described["method"], [concept], described["parameters"])
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
    row = {
        "artefact": f"{described['method']}-{concept.name}",
        "status": Status.OK.value,
        "error": None,
        "facts": json.dumps(measured, sort_keys=True),
    }
    metadata = {**erased.artefact.metadata, "layout": erased.artefact.layout}
    blob = safetensors.torch.save(dict(erased.artefact.tensors), metadata)
    return pa.Table.from_pylist([row], schema=SCHEMAS["erase"]), blob
