"""Inference-time guards: one protocol, composable, in the order the spec lists them. Importing this loads no torch."""

from __future__ import annotations

from typing import Any

from audit.errors import SpecError
from audit.spec import Concept, Guard

NAMES = ("negative-prompt",)


def resolve(guard: Guard, concept: Concept) -> dict[str, Any]:
    """Name, version-independent parameters and defaults of a guard for `concept`; raises `SpecError` for unknown ones."""
    if guard.name not in NAMES:
        raise SpecError(
            f"guard {guard.name!r} is not known here", where="defences", next_step=f"use one of: {', '.join(NAMES)}"
        )
    unknown = set(guard.parameters) - {"text"}
    text = guard.parameters.get("text", concept.phrase)
    if unknown or not isinstance(text, str) or not text.strip():
        raise SpecError(
            f"guard negative-prompt takes one parameter, a non-empty 'text' (got {sorted(guard.parameters)})",
            where="defences",
            next_step="give text, or nothing: then the concept's phrase is used",
        )
    return {"name": guard.name, "parameters": {"text": text}}
