"""The model folder of a quality instrument, refused before any compute when it is of another kind."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from audit.errors import DetectorError
from audit.instruments.detectors import folders
from audit.spec.quality import QualitySpec
from audit.weights.references import ModelRef, resolve_model


class NetworkParameters(BaseModel):
    """The setting that a kind with a network adds to a spec entry."""

    model: str
    "`testbed/NAME`, a local folder or `org/name@<commit>`."


TESTBED = {"clip-score": "judge", "features": "classifier"}  # what a bare `testbed` means, by kind of instrument


def folder_of(entry: QualitySpec) -> ModelRef:
    """Return the folder that `entry.model` names, of whatever type. Raises `CheckpointError` when it cannot be found."""
    return resolve_model(entry.model or "", testbed_name=TESTBED.get(entry.kind, entry.kind))


def resolve(entry: QualitySpec, known: Sequence[str]) -> ModelRef:
    """Return the folder that `entry.model` names; its `model_type` is one of `known`. Raises `DetectorError` otherwise."""
    ref = folder_of(entry)
    kind = folders.model_type(ref)
    if kind not in known:
        raise DetectorError(
            f"quality instrument {entry.name!r} ({entry.kind}) cannot read with a model of type {kind!r}",
            where=f"quality.{entry.name}.model",
            next_step=f"name a folder of one of these types: {', '.join(known)}",
        )
    return ref
