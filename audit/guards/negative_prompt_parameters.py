"""Parameters of the guard negative-prompt, and the guard as a method. Imports no torch."""

from __future__ import annotations

from audit.guards.parameters import GuardMethod, Parameters, Text
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.families import GUIDED


class NegativePromptParameters(Parameters):
    """The text that replaces the null prompt of classifier-free guidance."""

    text: Text | None = None
    "What to avoid; by default the concept's phrase."

    def resolved(self, concept: Concept) -> Values:
        """Return the text, by default the concept's phrase."""
        return {"text": self.text or concept.phrase}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """Return the text."""
        return [values["text"]]


METHOD = GuardMethod(
    "negative-prompt", "2", NegativePromptParameters, "audit.guards.negative_prompt:build", families=GUIDED
)
