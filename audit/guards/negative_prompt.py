"""Negative prompt: the unconditional branch is replaced by the prediction for a text that names what to avoid.

eps = eps_neg + g (eps_p - eps_neg). With guidance 1 that branch is not evaluated, so the guard has nothing to hold on to
and says so. Parameters: `text`, or the concept's phrase when absent; the exact text and its SHA-256 are in the report.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import torch

from audit.diffusion.guard import Conditioning, Guard, Step
from audit.guards.building import Parts
from audit.guards.negative_prompt_parameters import METHOD
from audit.methods.parameters import Values

NO_GUIDANCE = (
    "classifier-free guidance is off (guidance 1), so the unconditional branch that it replaces is not evaluated"
)


class NegativePrompt(Guard):
    """The guard negative-prompt: replace the null embedding by that of `text`; `encode` maps texts to states (B, L, D)."""

    name = METHOD.name
    version = METHOD.version

    def __init__(self, text: str, encode: Callable[[list[str]], torch.Tensor]) -> None:
        self.text = text
        self._encode = encode

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Encode the text, unless guidance is off."""
        super().begin(conditioning, timesteps)
        self._states: torch.Tensor | None = None
        if conditioning.guidance != 1.0:
            self._states = self._encode([self.text]).to(conditioning.null).expand_as(conditioning.null)
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        for row in range(len(conditioning.texts)):
            self.ledger.say(row, text=self.text, text_sha256=digest)
            if self._states is None:
                self.ledger.idle(row, NO_GUIDANCE)

    def condition(self, conditioning: Conditioning, step: Step) -> Conditioning:
        """Return the conditioning with the text's states in place of the null prompt's; unchanged without guidance."""
        if self._states is None:
            return conditioning
        for row in range(len(conditioning.texts)):
            self.ledger.act(row, step.timestep)
        return dataclasses.replace(conditioning, null=self._states)


def build(values: Values, parts: Parts) -> NegativePrompt:
    """Return a new negative prompt."""
    return NegativePrompt(values["text"], parts.encode)
