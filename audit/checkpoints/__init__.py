"""Read erased models from outside: recognise a file, measure what it changes, and apply it to a backbone.

`recognise` names a checkpoint's layout, `measure` compares its tensors with the backbone's, and `apply_artefact`
returns the erased model. Names are imported when they are first used: recognising needs torch but not diffusers, which
takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.checkpoints.apply import ErasedModel, apply_artefact
    from audit.checkpoints.footprint import Measured, measure
    from audit.checkpoints.layouts import Artefact
    from audit.checkpoints.recognition import recognise
    from audit.checkpoints.tensors import backbone_files

_MODULES = {
    "Artefact": "layouts",
    "ErasedModel": "apply",
    "Measured": "footprint",
    "apply_artefact": "apply",
    "backbone_files": "tensors",
    "measure": "footprint",
    "recognise": "recognition",
}

__all__ = [
    "Artefact",
    "ErasedModel",
    "Measured",
    "apply_artefact",
    "backbone_files",
    "measure",
    "recognise",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
