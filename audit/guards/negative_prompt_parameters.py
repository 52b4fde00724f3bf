"""Parameters of the guard negative-prompt, and the guard as a method. Imports no torch."""

from __future__ import annotations

from typing import Any

from audit.guards.parameters import GuardMethod, Parameters, Text, Values
from audit.spec.sections import Concept


class NegativePromptParameters(Parameters):
    """`text` replaces the null prompt of classifier-free guidance."""

    text: Text | None = None  # None: the concept's phrase

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """The text, by default the concept's phrase."""
        return {"text": self.text or concept.phrase}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """The text."""
        return [values["text"]]


METHOD = GuardMethod("negative-prompt", "2", NegativePromptParameters, "audit.guards.negative_prompt:build")
