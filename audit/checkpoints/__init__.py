"""Erased models on disk: what a file is, what it changes, and the model it makes of a backbone.

`recognise` says what a checkpoint is, `measure` what it changes, `apply_artefact` makes the erased model.
"""

from __future__ import annotations

from audit.checkpoints.apply import ErasedModel, apply_artefact
from audit.checkpoints.footprint import Measured, measure
from audit.checkpoints.layouts import Artefact
from audit.checkpoints.recognise import recognise
from audit.checkpoints.tensors import backbone_files
from audit.checkpoints.weights import Footprint, apply_weights

__all__ = [
    "Artefact",
    "ErasedModel",
    "Footprint",
    "Measured",
    "apply_artefact",
    "apply_weights",
    "backbone_files",
    "measure",
    "recognise",
]
